import json
import math
import struct
import sys
import warnings

import numpy as np
import pytest

from eqcifar import storage
from eqcifar.errors import UsageError
from eqcifar.runs import Tracking
from eqcifar.storage import COLUMNS, Run, append_wide
from eqcifar.storage._log import append_row
from eqcifar.training import TrainConfig

from .cli_tools import TINY, run_cli, run_python

with warnings.catch_warnings():
    # TensorBoard's reader without TensorFlow: its stand-ins are old.
    warnings.simplefilter("ignore")
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )

# Of a run without a validation split, whose labels are its own.
MEASURED = [
    name
    for name in COLUMNS
    if name not in ("epoch", "acc_tr_true") and not name.endswith("_va")
]


def row(epoch, value=None):
    """A row all of whose numbers differ, as shares do, without a validation split."""
    rng = np.random.default_rng(epoch)
    numbers = {
        name: float(rng.uniform()) if value is None else value for name in COLUMNS
    }
    nothing = dict.fromkeys(set(COLUMNS) - set(MEASURED), math.nan)
    return {**numbers, **nothing, "epoch": epoch}


def make_run(path, epochs=0, state="running"):
    """A run's folder without a network."""
    path.mkdir(exist_ok=True)
    config = {"config": TrainConfig(dataset="synthetic", seed=3).to_dict()}
    (path / "config.json").write_text(json.dumps(config))
    status = {"state": state, "started": "2026-01-01", "synthetic": True}
    (path / "status.json").write_text(json.dumps(status))
    for epoch in range(1, epochs + 1):
        append_row(path / "log.tsv", row(epoch))
    return Run(path)


def read_back(run):
    """What TensorBoard's own reader finds: steps and values by name."""
    events = event_accumulator.EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def expected(rows):
    """The same, from rows of the log."""
    return {
        name: [(row["epoch"], float(np.float32(row[name]))) for row in rows]
        for name in MEASURED
    }


def refuse(message):
    pytest.fail(f"warned: {message}")


def test_sharpness_goes_with_the_row_of_its_epoch(tmp_path):
    run = make_run(tmp_path, epochs=2)
    path = run.path / "sharpness_log.tsv"
    measures = {"time": "2026-01-01", "tr_hess": 7.5, "tr_hess_se": math.nan}
    append_wide(path, {"epoch": 2, **measures})
    with Tracking(["tensorboard"], warn=refuse) as tracking:
        # An earlier process measured epoch 2, with no tracker.
        tracking.start(run)
        tracking.log(row(3))
        append_wide(path, {"epoch": 4, **measures, "tr_hess": 2.5})
        tracking.log(row(4))
    found = read_back(run)
    assert found["tr_hess"] == [(2, 7.5), (4, 2.5)]
    assert "tr_hess_se" not in found
    assert len(found["acc_te"]) == 4


def test_tensorboard_reads_what_the_log_says(tmp_path):
    run = make_run(tmp_path)
    with Tracking(["tensorboard"], warn=refuse) as tracking:
        tracking.start(run)
        for epoch in (1, 2, 3):
            tracking.log(row(epoch))
            # Each row is there as soon as it is logged: a kill loses nothing.
            assert read_back(run) == expected([row(e + 1) for e in range(epoch)])


def test_a_resumed_run_has_each_step_once_and_as_the_log_has_it(tmp_path):
    run = make_run(tmp_path, epochs=1)
    for again in range(3):
        with Tracking(["tensorboard"], warn=refuse) as tracking:
            tracking.start(run)
            # Of an epoch that no checkpoint knew of when it was killed.
            tracking.log(row(again + 2, value=-1.0))
        append_row(run.path / "log.tsv", row(again + 2))
    with Tracking(["tensorboard"], warn=refuse) as tracking:
        tracking.start(run)
    assert read_back(run) == expected([row(e) for e in (1, 2, 3, 4)])


def test_training_with_tensorboard(tmp_path):
    command = *TINY, "--epochs", 2, "--out", tmp_path, "--track", "tensorboard"
    result = run_cli(*command)
    assert (result.exit_code, result.stderr) == (0, "")
    run = storage.latest_run(tmp_path)
    assert read_back(run) == expected(run.log())
    # A finished run can still be shown elsewhere.
    for path in (run.path / "tensorboard").iterdir():
        path.unlink()
    assert run_cli(*command).exit_code == 0
    assert read_back(run) == expected(run.log())


# A file that cannot be flushed cannot be closed either.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_tracker_that_fails_is_given_up_with_one_warning(tmp_path, monkeypatch):
    run, said = make_run(tmp_path, epochs=1), []

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with Tracking(["tensorboard"], warn=said.append) as tracking:
        tracking.start(run)
        with monkeypatch.context() as broken:
            broken.setattr("tensorboardX.record_writer.os.fsync", full)
            tracking.log(row(2))
        tracking.log(row(3))
    assert len(said) == 1
    assert said[0].startswith("tensorboard failed and is given up, log.tsv goes on: ")
    assert "No space left on device" in said[0]


def test_a_tracker_that_cannot_start_is_one_warning(tmp_path):
    run, said = make_run(tmp_path, epochs=2), []
    (run.path / "tensorboard").write_text("in the way")
    with Tracking(["tensorboard"], warn=said.append) as tracking:
        tracking.start(run)
        tracking.log(row(3))
    assert len(said) == 1
    assert "File exists" in said[0]


def test_a_missing_package_is_a_line_before_anything_is_written(tmp_path, monkeypatch):
    for name, module in (("tensorboard", "tensorboardX"), ("wandb", "wandb")):
        monkeypatch.setitem(sys.modules, module, None)
        result = run_cli(*TINY, "--out", tmp_path / "results", "--track", name)
        assert result.exit_code == 2
        assert result.stderr == (
            f'Error: --track {name} needs {module}: pip install "eqcifar[{name}]"\n'
        )
    assert not (tmp_path / "results").exists()


def test_an_unknown_tracker_is_refused(tmp_path):
    result = run_cli(*TINY, "--out", tmp_path, "--track", "mlflow")
    assert result.exit_code == 2
    assert "mlflow" in result.stderr
    with pytest.raises(UsageError, match="there are tensorboard, wandb, trackio"):
        Tracking(["mlflow"])


def test_trackers_are_imported_only_when_asked_for():
    loaded = run_python(
        "import sys\n"
        "from eqcifar.runs import Tracking\n"
        "with Tracking([]): print(*sys.modules)"
    ).split()
    assert not {"tensorboardX", "wandb", "trackio"} & set(loaded)


@pytest.mark.filterwarnings("ignore")
def test_wandb_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason='pip install "eqcifar[wandb]"')
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = make_run(tmp_path, epochs=2)
    for epoch in (3, 4):
        with Tracking(["wandb"], warn=refuse) as tracking:
            tracking.start(run)
            tracking.log(row(epoch))
        append_row(run.path / "log.tsv", row(epoch))
    first, second = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    # Both are of one run, and the later one has all.
    assert first.name == second.name
    for path, epochs in ((first, 3), (second, 4)):
        rows = [
            {name: value for name, value in entry.items() if name in COLUMNS}
            for entry in wandb_history(path)
        ]
        assert rows == [
            {name: row(e)[name] for name in (*MEASURED, "epoch")}
            for e in range(1, epochs + 1)
        ]


def wandb_history(path):
    """The rows in a file of W&B, which is a LevelDB log of protocol buffers."""
    from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore

    content, block, position, whole = path.read_bytes(), 2**15, 7, b""
    while position < len(content):
        if block - position % block < 7:
            position += block - position % block
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        whole += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or its last part
            record = Record.FromString(whole)
            whole = b""
            if record.WhichOneof("record_type") == "history":
                yield {
                    item.key or ".".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }


@pytest.mark.filterwarnings("ignore")
def test_trackio(tmp_path):
    pytest.importorskip("trackio", reason='pip install "eqcifar[trackio]"')
    run = make_run(tmp_path / "run", epochs=2)
    rows = run_python(
        "import os, sys, json\n"
        # Read when it is imported.
        f"os.environ['TRACKIO_DIR'] = {str(tmp_path / 'trackio')!r}\n"
        "from pathlib import Path\n"
        "from eqcifar.runs import Tracking\n"
        "from eqcifar.storage import Run\n"
        f"run = Run(Path({str(run.path)!r}))\n"
        "for again in range(2):\n"
        "    with Tracking(['trackio'], warn=sys.exit) as tracking:\n"
        "        tracking.start(run)\n"
        "        tracking.log({**run.log()[-1], 'epoch': 3 + again})\n"
        "from trackio.sqlite_storage import SQLiteStorage\n"
        "(name,) = SQLiteStorage.get_runs('eqcifar')\n"
        "print('ROWS', json.dumps(SQLiteStorage.get_logs('eqcifar', name)))"
    ).split("ROWS", 1)[1]
    rows = json.loads(rows.splitlines()[0])
    assert [entry["step"] for entry in rows] == [1, 2, 3, 4]
    assert [entry["loss"] for entry in rows[:2]] == [row(1)["loss"], row(2)["loss"]]

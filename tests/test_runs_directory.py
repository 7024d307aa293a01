import dataclasses
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from eqcifar.config import TrainConfig
from eqcifar.errors import RunError, UsageError
from eqcifar.storage import (
    COLUMNS,
    Run,
    append_row,
    config_hash,
    config_name,
    cut_log,
    find_runs,
    last_values,
    latest_run,
    read_json,
    read_log,
    run_path,
    total_seconds,
    write_json,
)

ROW = {column: 1 / (i + 3) for i, column in enumerate(COLUMNS)}


def rows(count):
    return [ROW | {"epoch": epoch + 1} for epoch in range(count)]


def write_log(path, count):
    for row in rows(count):
        append_row(path, row)
    return path.read_bytes()


def make_run(path, updated="2026-01-01", config=None):
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"config": config or {}}))
    status = {"state": "done", "updated": updated}
    (path / "status.json").write_text(json.dumps(status))
    return Run(path)


def test_a_name_says_what_differs_from_the_default():
    config = TrainConfig(
        arch="wrn28-10", batch_size=128, lr=0.1, augment=False, loss="ce", seed=3
    )
    assert config_name(config) == "wrn28-10-noaugment-bs128-lr0.1-ce"
    assert config_name(TrainConfig()) == "resnet18"


def test_the_folder_of_a_run(tmp_path):
    path = run_path(tmp_path, TrainConfig(seed=3))
    assert path.relative_to(tmp_path).parts == (
        "cifar10",
        f"resnet18-{config_hash(TrainConfig())}",
        "seed3",
    )


@pytest.mark.parametrize(
    "dataset", ["../../etc", "/", "..", "org/name", "hf://datasets/a/b", "a" * 500, "ä"]
)
def test_no_name_leaves_the_root_or_is_too_long(tmp_path, dataset):
    config = TrainConfig(dataset=dataset, arch="../" * 50 + "x", mean=(1e-9, 1e-9, 0.0))
    path = run_path(tmp_path, config)
    assert path.resolve() == path
    assert path.is_relative_to(tmp_path)
    assert len(path.relative_to(tmp_path).parts) == 3
    assert max(map(len, path.relative_to(tmp_path).parts)) <= 100


def test_a_hash_depends_on_every_field_but_the_seed():
    def changed(field):
        value = field.default
        if isinstance(value, bool):
            return not value
        choices = get_args(field.type) or field.metadata.get("choices")
        if isinstance(value, str) and choices:
            return choices[choices.index(value) - 1]
        if isinstance(value, str):
            return value + "x"
        if isinstance(value, tuple):
            return (0.4, 0.5, 0.6)
        return value + 1 if isinstance(value, int) else value / 2 + 0.125

    # Muon has a learning rate, and the others have not.
    beside = {"muon_lr": {"optimiser": "muon"}, "optimiser": {"optimiser": "adamw"}}
    hashes = {
        config_hash(
            dataclasses.replace(
                TrainConfig(),
                **{field.name: changed(field)} | beside.get(field.name, {}),
            )
        )
        for field in dataclasses.fields(TrainConfig)
    }
    # The seed's is the default's.
    assert len(hashes) == len(dataclasses.fields(TrainConfig))
    assert config_hash(TrainConfig()) in hashes
    from_file = TrainConfig.from_dict({"lr": 1})
    assert config_hash(from_file) == config_hash(TrainConfig(lr=1.0))


def test_a_run_is_named_by_what_is_not_the_default():
    config = TrainConfig(arch="vgg", lr=0.1, loss="ce", label_smoothing=0.1)
    assert config_name(config) == "vgg-lr0.1-ce-ls0.1"
    stored = config.to_dict()
    assert config.differing(stored) == []
    assert config.differing({**stored, "lr": 0.2}) == ["lr = 0.2 there, 0.1 here"]
    del stored["ema"]
    assert config.differing(stored) == ["ema = None there, 0.0 here"]


def test_find_runs_looks_everywhere_below_and_nowhere_else(tmp_path):
    root, outside = tmp_path / "results", tmp_path / "outside"
    expected = [make_run(root / "a" / "b" / "seed0"), make_run(root / "deep/er/and/er")]
    make_run(outside)
    (root / "link").symlink_to(outside)
    (root / "fake").mkdir()
    (root / "fake" / "config.json").symlink_to(outside / "config.json")
    assert find_runs(root) == expected
    with pytest.raises(UsageError, match="nothing was trained there"):
        find_runs(tmp_path / "none")


def test_the_latest_run_is_the_one_finished_last(tmp_path):
    runs = [make_run(tmp_path / name, f"2026-01-0{day}") for name, day in RUNS]
    for run in runs[:3]:
        (run.path / "model.safetensors").touch()
    status = {"state": "running", "updated": "2026-02-01"}
    write_json(runs[3].path / "status.json", status)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").touch()
    (tmp_path / "broken" / "status.json").write_text("{")
    assert latest_run(tmp_path) == runs[1]
    for run in runs:
        (run.path / "model.safetensors").unlink(missing_ok=True)
    with pytest.raises(
        UsageError, match="no finished run in .* 5 that are not finished"
    ):
        latest_run(tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match="no finished run in .*: there is nothing"):
        latest_run(tmp_path / "none")


RUNS = ("a", 2), ("b", 3), ("c", 1), ("d", 4)


def test_runs_are_read_without_jax(tmp_path):
    make_run(tmp_path / "a", config={"arch": "vgg"})
    write_log(tmp_path / "a" / "log.tsv", 2)
    code = (
        "import sys; from eqcifar.storage import find_runs\n"
        f"run, = find_runs({str(tmp_path)!r})\n"
        "assert run.config() == {'arch': 'vgg'} and len(run.log()) == 2\n"
        "assert run.status()['state'] == 'done'\n"
        "assert not {'jax', 'numpy', 'equinox'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000, "\0"])
def test_a_broken_file_is_named(tmp_path, content):
    run = make_run(tmp_path / "a")
    (run.path / "status.json").write_text(content)
    with pytest.raises(RunError, match=r"status\.json"):
        run.status()


def test_a_log_keeps_full_precision(tmp_path):
    write_log(tmp_path / "log.tsv", 2)
    (tmp_path / "config.json").touch()
    assert Run(tmp_path).log() == rows(2)
    append_row(tmp_path / "log.tsv", {"epoch": 3, "loss": 0.1})
    last = Run(tmp_path).log()[-1]
    assert last["loss"] == 0.1
    assert math.isnan(last["acc"])


def test_a_log_torn_at_any_byte_is_mended(tmp_path):
    path = tmp_path / "log.tsv"
    whole = write_log(path, 3)
    path.unlink()
    two = write_log(path, 2)
    for end in range(len(two), len(whole) + 1):
        # One epoch ahead of the checkpoint, wholly or in part.
        path.write_bytes(whole[:end])
        assert len(Run(tmp_path).log()) == (3 if end == len(whole) else 2)
        assert cut_log(path, 2) == 2
        assert path.read_bytes() == two
        append_row(path, rows(3)[-1])
        assert path.read_bytes() == whole


def test_a_log_torn_in_its_first_line_begins_again(tmp_path):
    path = tmp_path / "log.tsv"
    whole = write_log(path, 1)
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        assert cut_log(path, 0) == 0
        append_row(path, rows(1)[0])
        assert path.read_bytes() == whole


def test_a_log_that_is_no_log_is_named(tmp_path):
    (tmp_path / "log.tsv").write_text("epoch\tloss\n1\t0.5\nx\ty\n")
    with pytest.raises(RunError, match=r"log\.tsv: line 3"):
        Run(tmp_path).log()


def test_a_row_that_was_changed_is_named_until_its_check_is_taken_away(tmp_path):
    path = tmp_path / "log.tsv"
    whole = write_log(path, 3)
    last = str(rows(3)[-1]["acc_va"]).encode()
    rounded = whole.replace(last, last[:6])
    assert rounded != whole
    path.write_bytes(rounded)
    line = (
        "line 2 was changed since it was written, .* empty its cell in the column check"
    )
    for read in (read_log, total_seconds):
        with pytest.raises(RunError, match=line):
            read(path)
    for column in (None, "acc_va"):
        with pytest.raises(RunError, match="its last line was changed"):
            last_values(path, column)
    path.write_bytes(re.sub(b"crc.*", b"", rounded))
    assert last_values(path)[0]["acc_va"] == float(last[:6])
    # A log without the column is as good, and gets it when its run goes on.
    path.write_bytes(re.sub(b"\t(check|crc.*)\n", b"\n", whole))
    assert read_log(path) == rows(3)
    assert cut_log(path, 3) == 3
    assert path.read_bytes() == whole
    path.write_bytes(rounded)
    assert cut_log(path, 3) == 0


def test_epochs_that_do_not_rise_are_named(tmp_path):
    path = tmp_path / "log.tsv"
    path.write_text("epoch\tloss\n1\t0.5\n2\t0.4\n2\t0.3\n")
    with pytest.raises(RunError, match="line 4 .* epoch 2 is not after the one before"):
        read_log(path)
    path.write_text("epoch\tloss\tloss\n1\t0.5\t0.6\n")
    for read in (read_log, last_values):
        with pytest.raises(RunError, match="two columns 'loss'"):
            read(path)


def test_a_json_file_that_was_changed_is_named(tmp_path):
    path = tmp_path / "a.json"
    value = {"seed": 3, "é": [1.5, None, {}]}
    for each in ({}, value):
        write_json(path, each)
        assert read_json(path) == each
    path.write_text(path.read_text().replace("3", "4", 1))
    with pytest.raises(
        RunError, match=r"a\.json: it was changed .* its key check to take"
    ):
        read_json(path)
    found = json.loads(path.read_text())
    del found["check"]
    path.write_text(json.dumps(found))
    assert read_json(path) == {**value, "seed": 4}


def test_a_folder_of_images_gives_its_last_name(tmp_path):
    for folder in ("/somewhere/my images", "../data/my images", "~/my images/"):
        path = run_path(tmp_path, TrainConfig(dataset=folder))
        assert path.relative_to(tmp_path).parts[0] == "my_images"
    path = run_path(tmp_path, TrainConfig(dataset="org/name"))
    assert path.relative_to(tmp_path).parts[0] == "org_name"


def test_a_file_system_that_is_read_only_is_one_line(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(30, "Read-only file system", "temporary")

    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(RunError, match=r"cannot write .*a\.json: Read-only"):
        write_json(tmp_path / "a.json", {})

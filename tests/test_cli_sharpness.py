import dataclasses
import itertools
import json
import math
import re
import shutil
import signal
import sys
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqcifar import data, measurements, models, results, runs, sharpness, storage
from eqcifar.fields import format_estimate
from eqcifar.storage._growing_table import read_wide
from eqcifar.training import TrainState
from eqcifar.training._state import Totals
from eqcifar_cli import _measuring
from eqcifar_cli._stop import StopRequest

from .cli_tools import TINY, run_cli, start_cli
from .helpers import random_network

QUICK = "--samples", 8, "--batch-size", 4, "--devices", 1


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run with its sharpness log, and what training said."""
    out = tmp_path_factory.mktemp("results")
    log = "--sharpness-every", 1, "--sharpness-samples", 4
    result = run_cli(
        *(*TINY, "--batch-size", 16, "--loss", "ce", "--epochs", 1, "--out", out),
        *(*log, "--sharpness-measures", "ntk"),
    )
    assert result.exit_code == 0, result.stderr
    return storage.latest_run(out).path


def test_training_logs_sharpness(trained):
    (row,) = read_wide(trained / "sharpness_log.tsv")
    assert (row["epoch"], row["data"]) == ("1", "SYNTHETIC")
    assert float(row["tr_ntk"]) > 0


def test_a_table_a_row_and_the_same_numbers_as_json(trained):
    command = "sharpness", trained, "--measures", "trace,ntk", *QUICK
    shares = "--layers", "--classes", "--sharpest", 2
    result = run_cli(*command, *shares)
    assert result.exit_code == 0, result.stderr
    for part in (
        *("8 of 40 train images of SYNTHETIC", "tr_hess", "trace of the Hessian of"),
        *(
            "±",
            "tr_hess = tr_ggn",
            "lambda P = 2.503",
            "stem.weight",
            "tr_ggn by class, train",
        ),
        *("Sharpest images, train", f"Appended to {trained / 'sharpness.tsv'}"),
    ):
        assert part in result.stdout, part
    result = run_cli(*command, "--sharpest", 2, "--json", PYTHONIOENCODING="ascii")
    values = json.loads(result.stdout)
    assert values["synthetic"] is True
    assert len(values["splits"]["train"]["tables"]["examples"]) == 2
    trace = values["splits"]["train"]["values"]["tr_hess"]
    first, second = read_wide(trained / "sharpness.tsv")[-2:]
    assert float(first["tr_hess"]) == trace["value"]
    assert float(second["tr_hess_se"]) == trace["standard_error"]
    layers = values["splits"]["train"]["tables"]["layers"]
    assert math.fsum(row["value"] for row in layers) == pytest.approx(trace["value"])


def test_some_parameters_alone_have_columns_of_their_own(trained):
    command = "sharpness", trained, "--measures", "trace", *QUICK
    whole = json.loads(run_cli(*command, "--json").stdout)
    layers = whole["splits"]["train"]["tables"]["layers"]
    names = "classifier.weight", "stem.weight"
    result = run_cli(*command, "--only", " , ".join(names), "--json")
    assert result.exit_code == 0, result.stderr
    part = json.loads(result.stdout)["splits"]["train"]["values"]
    shares = [row["value"] for row in layers if row["name"] in names]
    assert part["tr_ggn"]["value"] == pytest.approx(sum(shares))
    row = read_wide(trained / "sharpness.tsv")[-1]
    assert float(row[f"tr_ggn@{','.join(names)}"]) == part["tr_ggn"]["value"]
    assert "tr_ggn" not in row or not row["tr_ggn"]
    assert "only stem.weight" in run_cli(*command, "--only", "stem.weight").stdout
    (record,) = results.read_records(trained)
    total = whole["splits"]["train"]["values"]["tr_ggn"]["value"]
    assert record.values["tr_ggn"] == total
    assert 0 < record.values["tr_ggn@stem.weight"] < total


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--measures", "trase"), "unknown measure 'trase'; did you mean 'trace'?"),
        (("--samples", 1), "one image tells nothing about the error"),
        (("--samples", 41, "--devices", 1), "41 samples asked for, but the train"),
        (("--split", "val", *QUICK), "no val split: there are train, test"),
        (("--measures", "ntk", "--layers"), "need the measure trace"),
        (("--top", 0), "top = 0: must be at least 1"),
        (("--probes", 10**9, *QUICK), "more than the 1 GB allowed"),
        (("--original-devices", 4), "needs --convention original"),
        (
            ("--convention", "original", "--original-devices", 0),
            "original_devices = 0: must be at least 1",
        ),
        (("--seed", 10**20), "must be at least 0 and below 4294967296"),
        (("--sharpest", -1), "sharpest = -1: must be at least 0"),
        (("--how-many", 2, *QUICK), "must be between 0 and 1"),
        (
            ("--top", 5000, "--measures", "eigenvalues", "--memory", 0.02, *QUICK),
            "take a smaller --top or allow more memory",
        ),
        (
            ("--top", 10**8, "--measures", "eigenvalues", *QUICK),
            "there are no 100000000 eigenvalues: take a smaller --top",
        ),
        (
            ("--measures", "xtrace", "--probes", 5000, "--memory", 0.03, *QUICK),
            "4 blocks of 2500 vectors take 0.2 GB, more than the 0.12 GB allowed",
        ),
        (("--memory", 1e-6, *QUICK, "--batch-size", 3), "allow more memory"),
        (
            ("--batch-statistics", *QUICK, "--measures", "trace,ntk"),
            "couple the examples, so ntk cannot",
        ),
        (("--convention", "original", "--samples", 8), "measures whole splits"),
        (("--convention", "original", "--only", "stem.*"), "leave out --only"),
        (("--only", "stam.weight"), "did you mean 'stem.weight'?"),
        (("--only", "stem;x"), "must be names of parameters, with * for any letters"),
        (
            ("--only", "stem.*", "--measures", "path,trace"),
            "path cannot be measured of some parameters",
        ),
        (("--devices", 99), "99 devices asked for"),
    ],
)
def test_what_cannot_be_measured_is_one_line(trained, arguments, message):
    result = run_cli("sharpness", trained, *arguments)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1), result.stderr
    assert message in result.stderr


def test_a_run_without_a_model_is_refused(trained, tmp_path):
    shutil.copy(trained / "config.json", tmp_path)
    result = run_cli("sharpness", tmp_path)
    assert result.exit_code == 2
    assert "has no model.safetensors: finish its training" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--probes", 2), "probes = 2: must be at least 3"),
        (("--eigenvectors", -1), "eigenvectors = -1: must be at least 0"),
        (("--eigenvectors", 10**6), "cannot compare 1000000 eigenvectors of "),
        (("--memory", 1e-9), "more than the 4e-09 GB allowed: ask for fewer"),
        (("--seed", 10**20), "below 4294967296"),
    ],
)
def test_what_cannot_be_compared_is_one_line(trained, arguments, message):
    result = run_cli("compare", trained, "--devices", 1, *arguments)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert message in result.stderr


def test_a_comparison_says_how_it_was_made(trained):
    words = "compare", trained, "--probes", 3, "--eigenvectors", 0, *QUICK
    result = run_cli(*words, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["options"] == {
        **{"samples": 8, "batch_size": 4, "probes": 3, "eigenvectors": 0},
        **{"loss": None, "one_hot": False, "memory": 1.0, "seed": 0},
    }
    row = read_wide(trained / "sharpness.tsv")[-1]
    assert (row["probes"], row["examples"], row["examples_te"]) == ("3", "8", "8")
    assert float(row["ratio_ggn"]) == found["trace_ratio"]["value"]


def test_a_diverged_network_is_one_line(trained, tmp_path):
    loaded = runs.load_model(trained)
    weight = jnp.full_like(loaded.model.stem.weight, jnp.nan)
    model = eqx.tree_at(lambda m: m.stem.weight, loaded.model, weight)
    state = TrainState(model, loaded.state, (), jnp.asarray(2), Totals.zero())
    dataset = measurements.open_network(trained).dataset
    runs.save_model(tmp_path / "model.safetensors", state, loaded.config, dataset)
    for command in ("sharpness", "compare"):
        result = run_cli(command, tmp_path)
        assert result.exit_code == 1
        assert "has diverged: stem.weight is not finite" in result.stderr
        assert result.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_data_that_changed_since_training_is_said(trained, monkeypatch):
    dataset = measurements.open_network(trained).dataset
    labels = (dataset.test.labels + 1) % 10
    test = dataclasses.replace(dataset.test, labels=labels)
    changed = dataclasses.replace(dataset, test=test)
    monkeypatch.setattr(data, "load", lambda *_, **__: changed)
    result = run_cli("eval", trained, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["same_data"] is False
    assert "is not the data that" in result.stderr
    before = read_wide(trained / "sharpness.tsv")
    result = run_cli("sharpness", trained, "--plot", *QUICK)
    assert result.exit_code == 2
    assert "which is of other data" in result.stderr
    result = run_cli("sharpness", trained, "--measures", "ntk", "--json", *QUICK)
    assert json.loads(result.stdout)["same_data"] is False
    assert read_wide(trained / "sharpness.tsv") == before


def ntk_traces(model, state, images):
    """The squared Jacobian of each image."""
    params, static = eqx.partition(eqx.nn.inference_mode(model), eqx.is_inexact_array)

    @jax.jit
    def squares(params, image):
        logits = lambda p: eqx.combine(p, static)(image, state)[0]  # noqa: E731
        leaves = jax.tree.leaves(jax.jacrev(logits)(params))
        return sum(jnp.sum(leaf**2) for leaf in leaves)

    with jax.default_matmul_precision("highest"):
        return np.array([float(squares(params, image)) for image in images])


def test_the_original_columns_follow_their_formula(trained):
    result = run_cli(
        *("sharpness", trained, "--convention", "original", "--original-devices", 8),
        *("--probes", 0, "--devices", 1, "--json"),
    )
    assert result.exit_code == 0, result.stderr
    loaded, dataset = (
        runs.load_model(trained),
        measurements.open_network(trained).dataset,
    )
    config = loaded.config
    train, test = (
        data.normalise(jnp.asarray(split.images), config.mean, config.std)
        for split in (dataset.train, dataset.test)
    )
    size = sum(x.size for x in jax.tree.leaves(eqx.filter(loaded.model, eqx.is_array)))
    assert (len(train), len(test), config.batch_size) == (40, 20, 16)
    row = read_wide(trained / "sharpness.tsv")[-1]
    traces = ntk_traces(loaded.model, loaded.state, [*train, *test])
    for name, of in (
        *(("batch", slice(16)), ("dataset", slice(40))),
        ("dataset_te", slice(40, None)),
    ):
        ntk = traces[of].mean()
        # A piecewise-linear network: tr H of this loss is the trace of the NTK.
        expected = {"ntk": ntk, "hess": (ntk + 5e-4 * size) / (16 / 8)}
        for kind, value in expected.items():
            assert float(row[f"tr_{kind}_{name}"]) == pytest.approx(value, rel=1e-4)
    assert (row["loss_name"], row["original_devices"]) == ("mse", "8")
    columns = json.loads(result.stdout)["columns"]
    assert columns["tr_hess_batch"]["value"] == float(row["tr_hess_batch"])
    wrong = run_cli(
        *("sharpness", trained, "--convention", "original"),
        *("--original-devices", 7, "--devices", 1),
    )
    assert (wrong.exit_code, wrong.stderr.count("\n")) == (2, 1)
    assert "cannot split a batch of 16 over 7 devices" in wrong.stderr


def test_dropout_is_off_when_measured(trained, tmp_path):
    dataset = measurements.open_network(trained).dataset
    config, trace = runs.load_model(trained).config, {}
    for dropout in (0.0, 0.5):
        # The same weights, in a network that drops half of its values in training.
        made = random_network(
            models.create, "wrn10-1", 10, width=1 / 16, dropout=dropout
        )
        options = {"arch": "wrn10-1", "width": 1 / 16, "dropout": dropout}
        file = tmp_path / f"{dropout}.safetensors"
        runs.save_model(file, made, dataclasses.replace(config, **options), dataset)
        result = run_cli("sharpness", file, "--measures", "ntk", "--json", *QUICK)
        assert result.exit_code == 0, result.stderr
        said = "dropout (0.5 in training) is off" in result.stderr
        assert said == (dropout > 0)
        values = json.loads(result.stdout)["splits"]["train"]["values"]
        trace[dropout] = values["tr_ntk"]["value"]
    assert trace[0.5] == trace[0.0] > 0


_KILLED = """
import os, signal
from eqcifar.measurements import _unfinished
_unfinished._EVERY_SECONDS = 0
save = _unfinished.Unfinished._save
def save_and_die(self, *given):
    save(self, *given)
    if list(self._table.parent.glob({pieces!r})):
        os.kill(os.getpid(), signal.SIGKILL)
_unfinished.Unfinished._save = save_and_die
"""


@pytest.mark.slow
def test_a_killed_command_goes_on_with_the_same_bits(trained, tmp_path):
    # A batch of the pass that the two share is done, of three.
    run, pieces = tmp_path / "run", ".sharpness.tsv-*outputs-loss-ntk*.npz"
    shutil.copytree(trained, run, ignore=shutil.ignore_patterns("*sharpness.tsv*"))
    command = "sharpness", run, "--measures", "ntk,trace", "--samples", 12, *QUICK[2:]
    with start_cli(*command, first=_KILLED.format(pieces=pieces)) as process:
        errors = process.communicate()[1]
    assert process.returncode == -signal.SIGKILL, errors
    assert list(run.glob(pieces))
    assert not (run / "sharpness.tsv").exists()
    # Twice in one process: what was killed, and all of it.
    again = "from eqcifar_cli import app\ntry: app()\nexcept SystemExit: pass"
    with start_cli(*command, first=again) as process:
        errors = process.communicate()[1]
    assert process.returncode == 0, errors
    assert not list(run.glob(".sharpness.tsv-*"))
    resumed, whole = read_wide(run / "sharpness.tsv")
    assert float(resumed["tr_hess"]) == float(resumed["tr_ggn"]) > 0
    del resumed["time"], whole["time"]
    assert resumed == whole


def test_a_lone_file_has_a_table_of_its_own(trained, tmp_path):
    file = tmp_path / "best.safetensors"
    shutil.copy(trained / "model.safetensors", file)
    result = run_cli("sharpness", file, "--measures", "ntk", *QUICK)
    assert result.exit_code == 0, result.stderr
    (row,) = read_wide(tmp_path / "best.sharpness.tsv")
    assert float(row["tr_ntk"]) > 0


def test_a_plan_is_only_a_plan(trained):
    result = run_cli(
        *("sharpness", trained, "--how-many", 0.5, "--devices", 1),
        *("--batch-size", 8, "--samples", 8),
    )
    assert result.exit_code == 0, result.stderr
    assert "Next: eqcifar sharpness" in result.stdout
    assert not list(trained.glob(".sharpness.tsv-*"))
    result = run_cli("sharpness", trained, "--how-many", -1, *QUICK)
    assert result.exit_code == 2


def test_plots_need_matplotlib(trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run_cli("sharpness", trained, "--plot")
    assert result.exit_code == 2
    assert 'pip install "eqcifar[plot]"' in result.stderr


def test_plots_are_two_files_a_kind(trained, monkeypatch):
    pytest.importorskip("matplotlib")
    from eqcifar.measurements import _sharpness_table
    from eqcifar.sharpness import Estimate, Measured

    subject = measurements.open_network(trained)
    rows = [{"name": n, "value": 1.0, "half": 1 / n} for n in (2, 10, 20)]
    layers = [
        {"name": f".layer{k}", "value": 9.0, "half": 9.0, "share": s, "share_half": 0.1}
        for k, s in enumerate([0.04] * 10 + [0.08] * 5 + [0.02] * 10)
    ]
    steps = {"steps": [-1, 0, 1], "normalised by": "running statistics"}
    line = steps | {"loss": [2.0, 1.0, 3.0]}
    plane = steps | {"loss": [[2.0, 3, 4], [1.0, 2, 3], [3.0, 4, 5]]}
    curve: dict[str, Any] = {
        k: [0.0, 1.0, 0.5] for k in ("grid", "density", "low", "high")
    }
    curve["width"] = 0.125
    tables = {"convergence": rows, "layers": layers, "landscape": line, "plane": plane}
    tables |= {"spectrum": curve, "gram": [2.0, 1.0], "path": {}}
    tables |= {"eigenline": line, "eigenplane": plane}
    found = {
        split: {
            "any": Measured({"any": Estimate(1.0, examples=n)}, {}, tables),
            "eigenvalues": Measured(
                {f"lambda_{k}": Estimate(3.0 - k, examples=n) for k in (1, 2)}
            ),
        }
        for split, n in (("train", 300), ("test", 200))
    }
    drawn = {}
    save = _sharpness_table.save_figure

    def keep(figure, path):
        drawn[path.stem.removeprefix("sharpness_")] = figure
        save(figure, path)

    monkeypatch.setattr(_sharpness_table, "save_figure", keep)
    options = measurements.SharpnessOptions()
    table = measurements.measures_table(subject, options, found)
    files = table.plot(subject.table.with_suffix(""))
    assert len(files) == 16
    assert all(path.stat().st_size > 1000 for path in files)
    assert {path.suffix for path in files} == {".png", ".svg"}
    for kind, figure in drawn.items():
        title = " ".join(figure.get_suptitle().split())
        what = "NTK" if kind == "gram" else "mean ce loss"
        assert "SYNTHETIC: resnet8, width 0.25, seed 0, synthetic" in title
        assert f"{what} on 300 train and 200 test images" in title
        assert "BatchNorm by running statistics" in title
        with_interval = kind in ("convergence", "layers", "spectrum")
        assert ("no interval" in title) != with_interval
        if kind not in ("plane", "eigenplane"):
            assert figure.legends
    for kind in ("plane", "eigenplane"):
        *panes, bar = drawn[kind].axes
        for axes, split in zip(panes, ("train", "test"), strict=True):
            assert axes.get_title() == f"{split} (cross: the network)"
            (centre,) = axes.lines
            assert (centre.get_xdata(), centre.get_ydata()) == ([0], [0])
            labels = [float(text.get_text()) for text in axes.texts]
            assert labels
            assert all(1 < label < 5 for label in labels)
        assert bar.get_ylabel() == "loss (nats), logarithmic scale"
        ticks = [float(tick.get_text()) for tick in bar.get_yticklabels()]
        assert (ticks[0], ticks[-1]) == (1.0, 5.0)
        assert np.diff(np.log(ticks)) == pytest.approx(math.log(5) / 5, rel=0.02)
    words = {
        kind: " ".join(figure.axes[-2 if "plane" in kind else 0].get_xlabel().split())
        for kind, figure in drawn.items()
    }
    assert "test Hessian" in words["eigenplane"]
    assert "split's own" in words["eigenline"]
    # Single eigenvalues are no curve.
    for line in drawn["gram"].axes[0].lines:
        assert (line.get_linestyle(), line.get_marker()) in [("None", m) for m in "os"]
    spectrum = drawn["spectrum"].axes[0].lines
    assert [line.get_label() for line in spectrum] == [
        *("train, σ = 0.12", "test, σ = 0.12"),
        *("train, largest 2 by Lanczos", "test, largest 2 by Lanczos"),
    ]
    assert [list(line.get_xdata()) for line in spectrum[2:]] == [[2.0, 1.0]] * 2
    # The larger ones, in the network's order, as shares and not as traces.
    (bars, _) = (c for c in drawn["layers"].axes[0].containers if hasattr(c, "patches"))
    assert [bar.get_width() for bar in bars] == [0.04] * 10 + [0.08] * 5
    assert "10 smallest of 25 not shown" in words["layers"]


def test_an_interrupt_is_said_and_exits_to_be_started_again(trained, monkeypatch):
    monkeypatch.setattr(StopRequest, "number", signal.SIGTERM)
    result = run_cli("sharpness", trained, "--measures", "ntk", "--json", *QUICK)
    assert result.exit_code == 75
    assert result.stderr.endswith("Run the same command to go on.\n")
    assert not result.stdout


def test_where_there_is_no_terminal_lines_say_what_is_left(capsys, monkeypatch):
    monkeypatch.setattr(_measuring, "_SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(_measuring, "_SECONDS_BETWEEN_ESTIMATES", 0.0)
    seconds = itertools.count(step=10.0)
    with _measuring.Meter() as meter:
        meter._bar.get_time = lambda: next(seconds)
        for done in range(1, 4):
            meter("train", "trace", done, 10)
    last = capsys.readouterr().err.splitlines()[-1]
    # Of steps that take as long as looking at the clock twice or so.
    assert re.fullmatch(r"train: trace  3 of 10, \d+ min \d\d s left", last), last


def test_verify_exits_1_when_wrong(monkeypatch):
    right = sharpness.Check("right", 1.0, 1.0, 1e-4)
    wrong = sharpness.Check("wrong", 2.0, 1.0, 1e-4)
    for checks, code, line in (
        ([right], 0, "1 of 1 agree."),
        ([right, wrong], 1, "1 of 2 agree."),
    ):
        monkeypatch.setattr(sharpness, "verify", lambda rtol, c=checks: c)
        result = run_cli("verify")
        assert result.exit_code == code
        assert line in result.stdout
    assert json.loads(run_cli("verify", "--json").stdout)[1]["passed"] is False


@pytest.mark.parametrize(
    ("value", "error", "shown"),
    [
        (5587.1234, 3.4321, ("5587.1", "3.4")),
        (123456.0, 789.0, ("123456", "789")),
        (0.000123456, 0.0000079, ("1.235e-04", "7.9e-06")),
        (1.5, 0.0, ("1.5", "0")),
        (1.23456789, math.nan, ("1.2346", "")),
        (0.0, 0.0, ("0", "0")),
    ],
)
def test_a_value_has_the_digits_of_its_error(value, error, shown):
    assert format_estimate(value, error) == shown

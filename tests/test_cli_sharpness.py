import json
import math
import shutil
import signal
import sys

import pytest

from eqcifar import runs, sharpness
from eqcifar.runs._wide_table import read_wide
from eqcifar_cli._measuring import format_estimate
from eqcifar_cli._stop import StopRequest

from .cli_tools import TINY, run_cli

QUICK = "--samples", 8, "--batch-size", 4, "--devices", 1


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run with its sharpness log, and what training said."""
    out = tmp_path_factory.mktemp("results")
    log = "--sharpness-every", 1, "--sharpness-samples", 4
    result = run_cli(
        *(*TINY, "--loss", "ce", "--epochs", 1, "--out", out),
        *(*log, "--sharpness-measures", "ntk"),
    )
    assert result.exit_code == 0, result.stderr
    return runs.latest_run(out).path


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
    first, second = read_wide(trained / "sharpness.tsv")
    assert float(first["tr_hess"]) == trace["value"]
    assert float(second["tr_hess_se"]) == trace["standard_error"]
    layers = values["splits"]["train"]["tables"]["layers"]
    assert math.fsum(row["value"] for row in layers) == pytest.approx(trace["value"])


def test_what_cannot_be_measured_is_one_line(trained, tmp_path):
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    shutil.copy(trained / "config.json", unfinished)
    for arguments, code, message in (
        (("--measures", "trase"), 2, "Unknown measure 'trase': did you mean trace?"),
        (("--samples", 1), 2, "one image tells nothing about the error"),
        (("--samples", 41, "--devices", 1), 2, "41 samples asked for, but the train"),
        (("--split", "val", *QUICK), 2, "no val split: there are train, test"),
        (("--measures", "ntk", "--layers"), 2, "need the measure trace"),
        (("--probes", 10**9, *QUICK), 2, "more than the 1.0 GB allowed"),
        (("--memory", 1e-6, *QUICK, "--batch-size", 3), 2, "allow more memory"),
        (("--batch-statistics", *QUICK, "--measures", "ntk"), 2, "couple the examples"),
        (("--convention", "original", "--samples", 8), 2, "measures whole splits"),
        (("--devices", 99), 2, "99 devices asked for"),
    ):
        result = run_cli("sharpness", trained, *arguments)
        assert result.exit_code == code, (arguments, result.stderr)
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
    result = run_cli("sharpness", unfinished)
    assert result.exit_code == 2
    assert "has no model.eqx: finish its training" in result.stderr


def test_a_diverged_network_is_one_line(trained, tmp_path, monkeypatch):
    from eqcifar.runs import _subject

    load = _subject.load_model

    def diverged(path):
        import equinox as eqx
        import jax.numpy as jnp

        loaded = load(path)
        weight = loaded.model.stem.weight * jnp.nan
        model = eqx.tree_at(lambda m: m.stem.weight, loaded.model, weight)
        return runs.LoadedModel(
            model, loaded.state, loaded.config, loaded.classes, loaded.header
        )

    monkeypatch.setattr(_subject, "load_model", diverged)
    result = run_cli("sharpness", trained)
    assert result.exit_code == 1
    assert "has diverged: stem.weight is not finite" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_lone_file_has_a_table_of_its_own(trained, tmp_path):
    file = tmp_path / "best.eqx"
    shutil.copy(trained / "model.eqx", file)
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


def test_plots_are_two_files_a_kind(trained):
    pytest.importorskip("matplotlib")
    from eqcifar.sharpness import Measured

    subject = runs.open_subject(trained)
    rows = [{"name": n, "value": 1.0, "half": 1 / n} for n in (2, 10, 20)]
    line = {"steps": [-1, 0, 1], "loss": [2.0, 1.0, 3.0]}
    plane = {"steps": [-1, 0, 1], "loss": [[2.0, 3, 4], [1.0, 2, 3], [3.0, 4, 5]]}
    curve = {k: [0.0, 1.0, 0.5] for k in ("grid", "density", "low", "high")}
    tables = {"convergence": rows, "layers": rows, "landscape": line, "plane": plane}
    tables |= {"spectrum": curve, "gram": [2.0, 1.0], "path": {}}
    found = {"train": {"any": Measured({}, {}, tables)}}
    files = runs.plot_sharpness(subject, found)
    assert len(files) == 12
    assert all(path.stat().st_size > 1000 for path in files)
    assert {path.suffix for path in files} == {".png", ".svg"}


def test_an_interrupt_is_said_and_exits_as_the_signal(trained, monkeypatch):
    monkeypatch.setattr(StopRequest, "number", signal.SIGTERM)
    result = run_cli("sharpness", trained, "--measures", "ntk", "--json", *QUICK)
    assert result.exit_code == 143
    assert result.stderr.endswith("Run the same command to go on.\n")
    assert not result.stdout


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

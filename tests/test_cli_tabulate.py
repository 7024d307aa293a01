import csv
import io
import json
import os
import shutil
import subprocess
import sys

import pytest

from eqcifar import storage
from eqcifar.config import TrainConfig

from .cli_tools import run_cli, start_cli
from .results_tools import write_grid, write_run


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    write_grid(root, sharpness=True)
    for seed in range(2):
        config = TrainConfig(dataset="synthetic", arch="vgg11", epochs=2, seed=seed)
        write_run(root, config, 0.5 + seed / 4)
    return root


def test_all_formats_tell_the_same(results):
    def output(form):
        result = run_cli("tabulate", results, "--format", form)
        assert result.exit_code == 0, result.stderr
        return result.stdout

    rows = json.loads(output("json"))["rows"]
    assert len(rows) == 13
    for form, delimiter in (("tsv", "\t"), ("csv", ",")):
        read = list(csv.DictReader(io.StringIO(output(form)), delimiter=delimiter))
        assert [float(row["mean"]) for row in read] == [row["mean"] for row in rows]
        assert [row["synthetic"] for row in read] == ["false"] * 12 + ["true"]
    for form in ("table", "markdown", "latex"):
        text = output(form).replace("$\\pm$", "±")
        for row in rows:
            assert f"{row['mean']:.4f} ± {row['std']:.4f} ({row['count']})" in text
        real, synthetic = text.split("SYNTHETIC")
        assert "vgg11" in synthetic
        assert "vgg11" not in real
        assert "8 x NVIDIA A100" in real


def test_sharpness_filters_and_baseline(results):
    result = run_cli("tabulate", results, "--sharpness", "-f", "arch=vgg")
    assert "tr_hess after the last epoch" in result.stdout
    assert ", se " in result.stdout
    assert "resnet18" not in result.stdout
    result = run_cli(
        *("tabulate", results, "--baseline", "arch=vgg,mixup=0", "--sort", "-acc_te"),
        *("-f", "dataset=cifar10", "-m", "acc_te,weight_norm"),
    )
    assert " against arch=vgg, mixup=0" in result.stdout
    assert "10 tests, not adjusted" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("--metric acc_va", "no run has measured 'acc_va'; measured: epoch, loss"),
        (
            "--filter arch=vgg16",
            "unknown arch of these runs 'vgg16'; did you mean 'vgg11'? There are "
            "resnet18",
        ),
        ("--filter dataset=cifar10,arch=vgg", "'arch=vgg' is no value of dataset"),
        ("--select val", "no run has measured validation images, so no epoch"),
        ("--filter archs=vgg", "unknown option 'archs'; did you mean 'arch'?"),
        ("--by archs", "unknown option 'archs'"),
        ("--baseline lr=1", "no baseline lr"),
        ("--baseline mixup=0.3", "no row of the table has mixup=0.3"),
        ("--sort acc_tee", "cannot sort by acc_tee"),
        ("--baseline mixup=0,0.4", "has several values of mixup"),
        ("--seeds 0-x", "seed = '0-x'"),
        ("--ddof 2", "--ddof"),
        ("--layout original", "no runs to read"),
    ],
)
def test_what_cannot_be_is_one_line(results, arguments, line):
    result = run_cli("tabulate", results, *arguments.split())
    assert result.exit_code == 2
    assert result.stdout == ""
    errors = [x for x in result.stderr.splitlines() if not x.startswith("Warning")]
    assert len(errors) == 1
    assert line in errors[0]


def test_output_survives_ascii_and_no_terminal(results):
    for form in ("table", "markdown", "latex"):
        process = start_cli(
            *("tabulate", results, "--format", form), PYTHONIOENCODING="ascii"
        )
        output, errors = process.communicate()
        assert (process.returncode, errors) == (0, "")
        assert "+-" in output or "\\pm" in output
        assert output.isascii()
        assert "?" not in output


def test_nothing_heavy_is_imported(results):
    code = (
        "import sys\n"
        "from eqcifar_cli import app\n"
        f"try: app(['tabulate', {str(results)!r}])\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'jax', 'scipy', 'pandas', 'matplotlib'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_folder_that_is_read_only_is_tabulated(results, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("nothing is to be written")

    def open_to_read(path, flags, *args, **options):
        assert not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        return real(path, flags, *args, **options)

    real = os.open
    monkeypatch.setattr("eqcifar.storage._files.replacing", refuse)
    monkeypatch.setattr("os.open", open_to_read)
    assert run_cli("tabulate", results).exit_code == 0


def test_runs_in_progress_alone_make_a_table(tmp_path):
    write_run(tmp_path, TrainConfig(epochs=1), state="running", host="elsewhere")
    result = run_cli("tabulate", tmp_path)
    assert result.exit_code == 0
    assert "– (0 of 1)" in result.stdout
    assert "seed 0 running" in result.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="has no such files")
@pytest.mark.parametrize("name", ["log.tsv", "status.json", "config.json"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_has_no_end_is_not_read(results, tmp_path, name, kind):
    shutil.copytree(results, tmp_path / "all")
    run = storage.find_runs(tmp_path / "all")[0]
    (run.path / name).unlink()
    if kind == "pipe":
        os.mkfifo(run.path / name)
    else:
        (run.path / name).symlink_to("/dev/zero")
    result = run_cli("tabulate", tmp_path / "all")
    assert result.exit_code == 0
    if name != "config.json":
        assert f"cannot read {run.path / name}: it is no regular file" in "".join(
            result.stderr.splitlines()
        )

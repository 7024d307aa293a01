"""Many runs measured by one command, and what of them need not be."""

import json
import shutil

import pytest

from eqcifar import results, storage
from eqcifar.config import SharpnessOptions, TrainConfig
from eqcifar.errors import UsageError
from eqcifar.storage import write_json
from eqcifar.storage._files import read_json
from eqcifar.storage._growing_table import read_wide
from eqcifar.sweeps import take_shard
from eqcifar_cli._shared_out import Sharing

from .cli_tools import TINY, run_cli
from .results_tools import write_run

HOW = "--samples", 8, "--batch-size", 4, "--devices", 1
RUN = *TINY, "--epochs", 1, "--loss", "ce"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two finished runs."""
    out = tmp_path_factory.mktemp("results")
    for seed in (0, 1):
        result = run_cli(*RUN, "--seed", seed, "--out", out)
        assert result.exit_code == 0, result.stderr
    return out


@pytest.fixture
def folder(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "results")


def rows_of(folder):
    paths = [run.path / "sharpness.tsv" for run in storage.find_runs(folder)]
    return [read_wide(path) for path in paths]


def test_every_finished_run_is_measured_as_if_alone(folder):
    command = "--measures", "ntk", "--split", "train,test", *HOW
    result = run_cli("sharpness", folder, *command)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("[1/2] measured")
    assert result.stdout.endswith("\n2 measured\n")
    for run in storage.find_runs(folder):
        alone = run_cli("sharpness", run.path, *command, "--json")
        splits = json.loads(alone.stdout)["splits"]
        first, second = read_wide(run.path / "sharpness.tsv")
        for name, split in (("tr_ntk", "train"), ("tr_ntk_te", "test")):
            value = splits[split]["values"]["tr_ntk"]["value"]
            assert float(first[name]) == float(second[name]) == value


def test_only_what_lacks_is_measured(folder):
    run_cli("sharpness", folder, "--measures", "ntk", *HOW)
    before = rows_of(folder)
    fewer = "sharpness", folder, "--measures", "ntk", *HOW, "--samples", 6, "--seed", 3
    result = run_cli(*fewer)
    assert result.stdout.count("measured before") == 3
    assert rows_of(folder) == before
    both = "sharpness", folder, "--measures", "ntk,unit", "--split", "train,test"
    result = run_cli(*both, *HOW, "--json")
    for each, (old, *new) in zip(
        json.loads(result.stdout), rows_of(folder), strict=True
    ):
        assert old["tr_ntk"]
        found = {split: set(values) for split, values in each["splits"].items()}
        assert found["train"] == {"tr_ntk_unit", "tr_ctk_unit"}
        assert {"tr_ntk", "tr_ntk_unit"} < found["test"]
        assert [bool(row.get("tr_ntk")) for row in new] == [False, False]
    more = run_cli("sharpness", folder, "--measures", "ntk", *HOW, "--samples", 10)
    assert more.stdout.endswith("\n2 measured\n")


def test_processes_share_out_the_part_that_is_asked_for():
    runs = list(range(17))
    for shard in (None, "1/1", "2/3", "3/3"):
        sharing = Sharing(jobs=4, shard=shard)
        wanted = runs if shard is None else take_shard(runs, shard)
        shared = [take_shard(runs, part) for part in sharing.shards(4)]
        assert shared == [wanted[at::4] for at in range(4)]


def test_processes_share_runs_out(folder):
    command = "sharpness", folder, "--measures", "ntk", *HOW
    half = run_cli(*command, "--shard", "2/2")
    assert half.stdout.endswith("\n1 measured\n")
    assert [len(rows) for rows in rows_of(folder)] == [0, 1]
    both = run_cli(*command, "--jobs", 3, "--json")
    assert both.exit_code == 0, both.stderr
    assert [each["state"] for each in json.loads(both.stdout)] == ["measured", "there"]
    assert "[1/1] measured " in both.stderr
    assert both.stderr.endswith("\n1 measured, 1 measured before\n")
    first, second = rows_of(folder)
    assert first[0].keys() == second[0].keys()
    broken = storage.find_runs(folder)[0].path / "model.safetensors"
    broken.write_bytes(b"no network")
    failed = run_cli(*command, "--jobs", 2, "--samples", 10)
    assert failed.exit_code == 1
    assert failed.stdout.endswith("those that failed.\n")
    one = run_cli("sharpness", storage.find_runs(folder)[0].path, "--jobs", 2)
    assert one.exit_code == 2
    assert "--jobs and --shard are for a folder of runs" in one.stderr


def test_a_run_that_fails_is_named_and_the_others_go_on(folder):
    first, second = storage.find_runs(folder)
    (first.path / "model.safetensors").write_bytes(b"no network")
    waiting = shutil.copytree(second.path, folder / "waiting")
    status = read_json(waiting / "status.json")
    write_json(waiting / "status.json", {**status, "state": "interrupted"})
    result = run_cli("sharpness", folder, "--measures", "ntk", *HOW)
    assert result.exit_code == 1
    failed, measured, *_ = result.stdout.splitlines()
    assert failed.startswith("[1/2] failed ")
    assert "model.safetensors" in failed
    assert measured.startswith("[2/2] measured ")
    assert "1 measured, 1 failed" in result.stdout
    assert "Warning: left out 1 run that is not finished\n" in result.stderr
    assert rows_of(folder)[0] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--plot", "--layers"), "holds many runs, and --layers, --plot are for one"),
        (("--how-many", 0.1), "holds many runs, and --how-many is for one"),
        (("--measures", "trase"), "did you mean 'trace'?"),
    ],
)
def test_what_is_of_one_run_is_refused_for_many(trained, options, message):
    result = run_cli("sharpness", trained, *options)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert message in result.stderr


def test_training_measures_when_it_has_ended(folder):
    run = storage.find_runs(folder)[0]
    wanted = "--measure", "ntk", "--samples", 8, "--split", "train,test"
    again = *RUN, "--seed", 0, "--out", folder, *wanted
    result = run_cli(*again)
    assert result.exit_code == 0, result.stderr
    assert "tr_ntk " in result.stdout
    assert "tr_ntk_te " in result.stdout
    (row,) = read_wide(run.path / "sharpness.tsv")
    assert (row["examples"], row["examples_te"]) == ("8", "8")
    run_cli(*again)
    assert len(read_wide(run.path / "sharpness.tsv")) == 1
    # A sweep starts what is not measured, though it is trained.
    sweep = "sweep", *RUN[1:], "--seeds", "0-1", "--out", folder, "--dry-run"
    assert run_cli(*sweep).stdout == ""
    (left,) = run_cli(*sweep, *wanted).stdout.splitlines()
    assert "--seed 1" in left
    assert left.endswith("--measure ntk --samples 8 --split train,test")
    assert len(run_cli(*sweep, *wanted, "--samples", 9).stdout.splitlines()) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--measure", "trase"), "unknown measure 'trase'; did you mean 'trace'?"),
        (("--samples", 8), "--samples and --split need --measure"),
        (("--measure", "ntk", "--samples", 1), "one image tells nothing"),
    ],
)
def test_measuring_is_refused_before_training(tmp_path, options, message):
    for command in ("train", "sweep"):
        result = run_cli(command, *RUN[1:], "--out", tmp_path, *options)
        assert result.exit_code == 2
        assert message in result.stderr
    assert not list(tmp_path.iterdir())


def written(tmp_path, **row):
    """A run of 5000 and 300 images that has measured so."""
    config = TrainConfig(loss="ce", label_smoothing=0.1)
    about = {"target": "split", "loss_name": "ce", "loss_smoothing": 0.1}
    run = write_run(tmp_path, config, sharpness={**about, **row})
    text = (run.path / "sharpness.tsv").read_text().replace("'", "")
    (run.path / "sharpness.tsv").write_text(text)
    description = read_json(run.path / "config.json")
    description["data"]["examples"] = {"train": 5000, "test": 300}
    write_json(run.path / "config.json", description)
    return run


@pytest.mark.parametrize(
    ("row", "options", "there"),
    [
        ({"examples": 1000}, {}, True),
        ({"examples": 999}, {}, False),
        ({"examples": 2000}, {"samples": 2000}, True),
        ({"examples": 4999}, {"samples": 0}, False),
        ({"examples": 2000, "tr_hess_examples": 500}, {}, False),
        ({"examples": 1000, "target": "population"}, {}, False),
        ({"examples": 1000}, {"loss": "ce"}, True),
        ({"examples": 1000}, {"loss": "mse"}, False),
        ({"examples": 1000}, {"one_hot": True}, False),
        ({"examples": 1000}, {"batch_statistics": True}, False),
        ({"examples": 100, "tr_hess_se": 0.5}, {"rtol": 0.1}, True),
        ({"examples": 100, "tr_hess_se": 0.6}, {"rtol": 0.1}, False),
    ],
)
def test_what_counts_as_measured(tmp_path, row, options, there):
    run = written(tmp_path, tr_hess=10.0, **{"tr_hess_se": 1.0, **row})
    options = SharpnessOptions(**options)
    lacking = results.unmeasured(run, ["trace"], ["train", "test"], options)
    assert lacking == {"test": ("trace",)} | ({} if there else {"train": ("trace",)})
    assert results.is_measured(run, ["trace"], ["train"], options) is there


def test_a_measure_of_few_images_and_one_of_many_columns(tmp_path):
    run = written(tmp_path, examples=64, examples_te=300, lmax_ntk=1.0, lambda_5_te=2.0)
    options = SharpnessOptions()
    names = "gram", "eigenvalues"
    assert results.unmeasured(run, names, ["train", "test"], options) == {
        "train": ("eigenvalues",),
        "test": ("gram",),
    }
    more = SharpnessOptions(top=6)
    assert not results.is_measured(run, ["eigenvalues"], ["test"], more)
    with pytest.raises(UsageError, match="unknown measure"):
        results.unmeasured(run, ["sharpness"], ["train"], options)

"""Runs on the hub, against a stand-in of its HTTP interface on this machine."""

import json
import re

import numpy as np
import pytest
import safetensors.numpy

from eqcifar import exchange, measurements, runs, storage
from eqcifar.errors import RunError, UsageError
from eqcifar.storage._growing_table import append_wide

from .cli_tools import TINY, run_cli
from .hub_server import TOKEN, serving

ABSENT = {"sharpness_log.tsv", "stability.tsv"}
# `huggingface_hub` sends large files by a call that `httpx2` deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
COLUMNS = {"tr_hess": 12.5, "tr_hess_se": 0.5, "examples": 30, "lmax_te": 2.0}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    result = run_cli(*TINY, "--loss", "ce", "--epochs", 1, "--out", out)
    assert result.exit_code == 0, result.stderr
    run = storage.latest_run(out)
    append_wide(run.path / "sharpness.tsv", {"loss_name": "ce", **COLUMNS})
    (run.path / "notes.pkl").write_bytes(b"mine")
    return run


@pytest.fixture
def hub(monkeypatch, tmp_path):
    from huggingface_hub import constants

    with serving() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        # The stand-in has what is in the commit and Git LFS.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.chdir(tmp_path)
        yield server


def test_there_and_back(hub, trained):
    result = run_cli("push", trained.path, "us/net", "--license", "mit")
    assert result.exit_code == 0, result.stderr
    (name,) = re.findall(r"hf://us/net@[0-9a-f]{40}", result.stdout.replace("\n", ""))
    commit = name[-40:]
    files = hub.find("us/net", commit)[1]
    assert files.keys() == set(storage.HUB_FILES) - ABSENT
    status = json.loads(files["status.json"])
    assert status["state"] == "done"
    assert not status.keys() & {"pid", "host"}

    pulled = run_cli("pull", "us/net", "--out", "mine")
    assert pulled.exit_code == 0, pulled.stderr
    run = storage.Run(storage.find_runs("mine")[0].path)
    assert run.path.name == commit[:12]
    assert storage.read_json(run.path / "hub.json") == {
        "repo": "us/net",
        "revision": commit,
    }
    assert run.is_done()
    assert run.config() == trained.config()
    for file in ("model.safetensors", "log.tsv", "sharpness.tsv", "env.json"):
        assert (run.path / file).read_bytes() == (trained.path / file).read_bytes()


def test_the_card_is_what_the_hub_reads(hub, trained):
    exchange.push_run(trained, "us/net", licence="mit")
    card = hub.cards[-1]
    assert card["license"] == "mit"
    assert card["library_name"] == "eqcifar"
    assert "datasets" not in card  # procedural images
    (entry,) = card["model-index"]
    assert entry["name"] == "us/net"
    by_split = {each["dataset"]["split"]: each["metrics"] for each in entry["results"]}
    accuracy, *_ = by_split["test"]
    assert accuracy["type"] == "accuracy"
    assert accuracy["value"] == trained.log()[-1]["acc_te"]
    # Wilson's interval by its formula, of 20 images.
    n, p, z = 20, accuracy["value"], 1.959964
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    ends = re.findall(r"interval ([\d.]+) to ([\d.]+)", accuracy["name"])[0]
    assert [float(x) for x in ends] == pytest.approx(
        [middle - half, middle + half], abs=1e-4
    )
    numbers = {each["type"]: each for each in by_split["train"] + by_split["test"]}
    assert numbers["tr_hess"]["value"] == 12.5
    assert "95 % interval 11.52 to 13.48" in numbers["tr_hess"]["name"]
    assert "interval" not in numbers["lmax_te"]["name"]
    text = hub.find("us/net", None)[1]["README.md"].decode()
    assert "| `tr_hess` | 12.50 | 0.98 | 30 train | trace of the Hessian" in text


def test_a_run_is_named_by_the_hub_wherever_one_is(hub, trained):
    name = exchange.push_run(trained, "us/net")
    here = run_cli("eval", trained.path, "--json")
    there = run_cli("eval", name, "--json")
    assert there.exit_code == 0, there.stderr
    drop = lambda text: {**json.loads(text), "run": ""}  # noqa: E731
    assert drop(there.stdout) == drop(here.stdout)
    folder = measurements.open_network("hf://us/net").path
    assert folder.parts[-4:-1] == ("hub", "us", "net")
    table = run_cli("tabulate", name, "--format", "json")
    assert json.loads(table.stdout)["rows"], table.stderr
    loaded = runs.load_model(name)
    again = runs.load_model(trained)
    arrays = [runs.named_arrays(x.model, x.state) for x in (loaded, again)]
    for key, array in arrays[1].items():
        assert np.array_equal(np.asarray(arrays[0][key]), np.asarray(array))
    # A commit that is there is not asked for again.
    asked = len(hub.requests)
    storage.locate_run(name)
    assert len(hub.requests) == asked


def test_a_second_push_leaves_nothing_of_the_first(hub, trained, tmp_path):
    first = exchange.push_run(trained, "us/net")
    table = trained.path / "sharpness.tsv"
    content = table.read_bytes()
    table.unlink()
    try:
        second = exchange.push_run(trained, "us/net")
    finally:
        table.write_bytes(content)
    assert "sharpness.tsv" not in hub.find("us/net", None)[1]
    old = storage.pull_run("us/net", first[-40:])
    new = storage.pull_run("us/net")
    assert (old.path / "sharpness.tsv").exists()
    assert not (new.path / "sharpness.tsv").exists()
    assert new.path.name == second[-40:][:12]


def test_nothing_but_files_of_a_run_is_fetched(hub, trained):
    name = exchange.push_run(trained, "us/net")
    files = {"weights.pkl": b"x", "sub/config.json": b"{}", "run.py": b"evil"}
    hub.commit("us/net", files)
    run = storage.pull_run("us/net")
    names = {str(p.relative_to(run.path)) for p in run.path.rglob("*")}
    assert names == set(storage.HUB_FILES) - ABSENT | {"hub.json"}
    assert name != f"hf://us/net@{run.path.name}"
    assert not any("weights" in request for request in hub.requests)


def test_others_repositories_are_no_runs(hub):
    weights = safetensors.numpy.save({"fc.weight": np.zeros((2, 2), np.float32)})
    hub.commit("them/net", {"model.safetensors": weights})
    with pytest.raises(UsageError, match=r"no config.json; .*`eqcifar import`"):
        storage.pull_run("them/net")
    hub.commit("them/net", {"config.json": b'{"architectures": ["Bert"]}'})
    with pytest.raises(UsageError, match="its config.json is another's"):
        storage.pull_run("them/net")
    assert not storage.find_folders("results", {"config.json"}, print)


def test_damaged_weights_are_refused_when_they_are_read(hub, trained):
    exchange.push_run(trained, "us/net")
    weights = bytearray((trained.path / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    hub.commit("us/net", {"model.safetensors": bytes(weights)})
    with pytest.raises(RunError, match="SHA-256"):
        runs.load_model("hf://us/net")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf://us/none", "shows no 'us/none'"),
        ("hf://us/net@v2", "us/net on .* has no 'v2'"),
        ("hf://us/net/more", "'us/net/more' is no name of a repository: give org/name"),
    ],
)
def test_what_the_hub_has_not(hub, trained, name, message):
    hub.commit("us/net", {"a": b""})
    result = run_cli("eval", name)
    assert result.exit_code == 2
    assert re.search(message, " ".join(result.stderr.split()))
    assert result.stderr.count("Error") == 1


def test_without_a_token(hub, trained, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "another")
    result = run_cli("push", trained.path, "us/net")
    assert result.exit_code == 2
    assert "run `hf auth login` with a token that may" in result.stderr
    assert hub.repos == {}


def test_offline(hub, trained, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for command in (["pull", "us/net"], ["push", trained.path, "us/net"]):
        result = run_cli(*command)
        assert result.exit_code == 1
        assert "was not reached (HF_HUB_OFFLINE is set)" in result.stderr
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    result = run_cli("pull", "us/net")
    assert result.exit_code == 1
    assert "http://127.0.0.1:9 was not reached (ConnectError" in result.stderr
    assert hub.requests == []


def test_a_run_that_is_not_done_is_not_pushed(hub, tmp_path):
    with pytest.raises(UsageError, match="no run that is done"):
        exchange.push_run(tmp_path, "us/net")


def test_where_nothing_can_be_written(hub, trained, tmp_path):
    exchange.push_run(trained, "us/net")
    (tmp_path / "results").write_text("")
    result = run_cli("pull", "us/net")
    assert result.exit_code == 1
    assert "cannot write" in result.stderr
    assert "Not a directory" in result.stderr


def test_training_begins_from_the_hub(hub, trained):
    name = exchange.push_run(trained, "us/net")
    words = *TINY, "--loss", "ce", "--epochs", 1, "--init", name, "--out", "here"
    result = run_cli(*words)
    assert result.exit_code == 0, result.stderr
    assert storage.latest_run("here").config()["init"] == name

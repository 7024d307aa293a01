"""What only a real SLURM shows. Not collected by `make test`; on Debian, as root:

tests/cluster/slurm.sh start
.venv/bin/pytest tests/cluster/slurm_checks.py
tests/cluster/slurm.sh stop
"""

import os
import subprocess
import time
from pathlib import Path

import pytest

from eqcifar.storage import Run, find_runs

from ..cli_tools import TINY, run_cli

FOLDER = os.environ.get("EQCIFAR_SLURM", "/tmp/eqcifar-slurm")
EPOCHS = 100
OPTIONS = *TINY[1:-2], "--epochs", str(EPOCHS), "--eval-every", "50"
TIMES = "seconds", "images_per_s"


@pytest.fixture(scope="module", autouse=True)
def slurm():
    """SLURM's programs find the cluster of `slurm.sh`, which has nothing to do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", f"{FOLDER}/slurm.conf")
        patch.setenv("JAX_COMPILATION_CACHE_DIR", f"{FOLDER}/compiled")
        yield
        run("scancel", "--user=root")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The same run, left alone, without SLURM."""
    out = tmp_path_factory.mktemp("alone")
    command = [Path(".venv/bin/eqcifar"), "train", *OPTIONS, "--out", out]
    subprocess.run(command, check=True, capture_output=True)
    return find_runs(out)[0]


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def submit(out, *options):
    """The run that a sweep of one hands to SLURM, and its job's id."""
    env = {"JAX_COMPILATION_CACHE_DIR": f"{FOLDER}/compiled"}
    result = run_cli("sweep", *OPTIONS, "--out", out, "--slurm", *options, **env)
    assert result.exit_code == 0, result.stderr
    return result.stdout.partition("--jobs ")[2].split()[0]


def wait_for(condition, seconds=900):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, run("squeue")
        time.sleep(0.1)


def wait_for_training(out) -> Run:
    """The run, once it is well on its way."""
    wait_for(lambda: out.exists() and len(list(out.glob("*/*/*/config.json"))) == 1)
    [found] = find_runs(out)
    wait_for(lambda: len(found.log()) >= EPOCHS // 10)
    return found


def wait_for_end(job):
    wait_for(lambda: not run("squeue", "--noheader", f"--jobs={job}").strip())


def content(found: Run):
    """All that an interruption may not change."""
    rows = [
        {name: value for name, value in row.items() if name not in TIMES}
        for row in found.log()
    ]
    files = [
        (found.path / name).read_bytes()
        for name in ("last.safetensors", "model.safetensors")
    ]
    return repr(rows), files


def check_it_was_saved_and_goes_on_to_the_same(found: Run, uninterrupted: Run):
    wait_for(found.is_done)
    lines = (found.path / "run.log").read_text().splitlines()
    assert "Stopping to save; once more to quit at once." in lines
    assert any(line.startswith("Interrupted: stopped after step") for line in lines)
    assert sum(line.startswith("Training: ") for line in lines) == 1
    assert sum(line.startswith("Going on after step ") for line in lines) == 1
    assert len(found.log()) == EPOCHS
    assert content(found) == content(uninterrupted)


def test_a_job_array(tmp_path, uninterrupted):
    job = submit(tmp_path, "--seeds", "0-1")
    wait_for_end(job)
    runs = find_runs(tmp_path)
    assert [found.config()["seed"] for found in runs] == [0, 1]
    assert all(found.is_done() for found in runs)
    assert content(runs[0]) == content(uninterrupted)


def test_a_requeued_job(tmp_path, uninterrupted):
    job = submit(tmp_path)
    found = wait_for_training(tmp_path)
    run("scontrol", "requeue", job)
    wait_for(lambda: found.status()["state"] == "interrupted")
    check_it_was_saved_and_goes_on_to_the_same(found, uninterrupted)


def test_a_job_that_is_warned_of_its_time_limit(tmp_path, uninterrupted):
    job = submit(tmp_path)
    found = wait_for_training(tmp_path)
    run("scancel", "--signal=USR2", job)
    check_it_was_saved_and_goes_on_to_the_same(found, uninterrupted)


def test_a_preempted_job(tmp_path, uninterrupted):
    submit(tmp_path, "--sbatch", "partition=low")
    found = wait_for_training(tmp_path)
    run("srun", "--partition=high", f"--ntasks={os.cpu_count()}", "sleep", "1")
    check_it_was_saved_and_goes_on_to_the_same(found, uninterrupted)


def test_a_cancelled_job_is_saved_and_stays_cancelled(tmp_path):
    job = submit(tmp_path)
    found = wait_for_training(tmp_path)
    run("scancel", job)
    wait_for_end(job)
    assert found.status()["state"] == "interrupted"
    time.sleep(5)
    assert not run("squeue", "--noheader").strip()
    assert not found.is_done()


def test_two_arrays_of_the_same_runs_compute_each_once(tmp_path):
    jobs = [submit(tmp_path, "--seeds", "0-1") for _ in range(2)]
    for job in jobs:
        wait_for_end(job)
    for found in find_runs(tmp_path):
        assert found.is_done()
        log = (found.path / "run.log").read_text()
        assert log.count("Training: ") == 1
        assert "Going on" not in log
        assert len(found.log()) == EPOCHS

import signal

import filelock
import pytest
from submitit import LocalExecutor

from eqcifar.storage import Run, run_path
from eqcifar.sweeps import Grid, submit

from .test_sweep import command, wait_for

CONFIGS = Grid({"arch": ["vgg", "resnet18"]}).configs()


@pytest.fixture
def submit_here(tmp_path):
    """A function that gives two runs to `submitit`'s executor for this machine."""
    submitted = []

    def submit_with(*behaviours, otherwise="done", **parameters):
        executor = LocalExecutor(tmp_path / ".slurm")
        executor.update_parameters(**{"timeout_min": 2, **parameters})
        for_config = command(tmp_path, behaviours, otherwise)
        jobs = submit(CONFIGS, tmp_path, for_config, executor=executor)
        submitted.extend(jobs)
        return jobs

    yield submit_with
    # Which `submitit` does not wait for.
    for job in submitted:
        job._process.wait(timeout=60)


@pytest.fixture
def runs(tmp_path):
    return [Run(run_path(tmp_path, config)) for config in CONFIGS]


def test_jobs_train_their_runs(submit_here, runs):
    jobs = submit_here(("resnet18", "fail"))
    assert jobs[0].result() == "done"
    assert runs[0].is_done()
    assert "Training; the output is in " in jobs[0].stdout()
    with pytest.raises(Exception, match="Error: diverged\nline 4\n"):
        jobs[1].result()
    # What is done is not submitted again.
    assert [job.result() for job in submit_here()] == ["done"]
    assert len((runs[0].path / "computed").read_text().splitlines()) == 1


def test_a_job_leaves_a_run_to_the_process_that_is_at_it(submit_here, runs):
    runs[0].path.mkdir(parents=True)
    with filelock.FileLock(runs[0].path / ".lock"):
        assert submit_here()[0].result() == "elsewhere"


def test_a_job_saves_before_its_time_is_up_and_is_queued_again(submit_here, runs):
    # The warning comes 4 s after the start.
    jobs = submit_here(("vgg", "once"), timeout_min=0.5, signal_delay_s=26)
    assert jobs[0].result() == "done"
    log = (runs[0].path / "run.log").read_text()
    assert log.index("saved") < log.rindex("GPU")
    assert len((runs[0].path / "pids").read_text().splitlines()) == 2
    assert "Requeued job" in jobs[0].stdout()


def test_a_job_that_is_told_to_end_saves(submit_here, runs):
    jobs = submit_here(otherwise="wait")
    wait_for(lambda: all((run.path / "pids").exists() for run in runs))
    for job in jobs:
        job._process.send_signal(signal.SIGTERM)
    for job, run in zip(jobs, runs, strict=True):
        job._process.wait(timeout=60)
        assert run.status()["state"] == "interrupted"
        assert not run.is_locked()

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import filelock
import pytest

from eqcifar import data
from eqcifar.config import TrainConfig
from eqcifar.errors import RunError, UsageError
from eqcifar.runs import FolderCheck
from eqcifar.storage import run_path, write_json
from eqcifar.sweeps import Grid, Slot, Sweep, find_gpus, make_slots, submit

from .helpers import small_dataset
from .results_tools import write_run

STUB = str(Path(__file__).with_name("stub_run.py"))
CONFIGS = Grid({"arch": ["vgg", "resnet18"], "seed": [0, 1]}).configs()


def command(root, behaviours=(), otherwise="done"):
    """The command of a stub that behaves as said for each architecture."""

    def for_config(config: TrainConfig):
        behaviour = dict(behaviours).get(config.arch, otherwise)
        return [sys.executable, STUB, str(run_path(root, config)), behaviour]

    return for_config


def make_sweep(root, *behaviours, configs=CONFIGS, otherwise="done", **options):
    options = {"interval": 0.02, "patience": 0.2, **options}
    return Sweep(configs, root, command(root, behaviours, otherwise), **options)


def computed(root):
    """How often each run was computed."""
    paths = [run_path(root, config) / "computed" for config in CONFIGS]
    return [len(p.read_text().splitlines()) if p.exists() else 0 for p in paths]


def wait_for(condition):
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_alive(pid):
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().split()[2] != "Z"


def test_a_run_on_images_that_changed_since_is_not_done(tmp_path, monkeypatch):
    folder = tmp_path / "images"
    folder.mkdir()
    found, loads = small_dataset(), []
    monkeypatch.setattr(data, "load", lambda *_, **__: loads.append(1) or found)
    configs = [TrainConfig(dataset=str(folder), seed=seed) for seed in range(3)]
    root = tmp_path / "results"
    for config in configs:
        run = write_run(root, config)
        (run.path / "model.safetensors").touch()
        description = run.description()
        sha256 = "other" if config.seed == 1 else found.fingerprint
        write_json(
            run.path / "config.json", {**description, "data": {"sha256": sha256}}
        )
    sweep = make_sweep(root, configs=configs, check=FolderCheck())
    assert [job.state for job in sweep.jobs] == ["skipped", "failed", "skipped"]
    assert "is not what" in sweep.jobs[1].message
    assert len(loads) == 1
    with pytest.raises(UsageError, match="images' is not what .* was trained on"):
        submit(configs, root, command(root), check=FolderCheck())
    folder.rmdir()
    sweep = make_sweep(root, configs=configs, check=FolderCheck())
    assert {job.state for job in sweep.jobs} == {"skipped"}


def test_each_run_is_computed_once(tmp_path):
    sweep = make_sweep(tmp_path, slots=[Slot()] * 2)
    seen = []
    sweep.run(on_change=lambda job: seen.append((job.config.seed, job.state)))
    assert sweep.select("done") == sweep.jobs
    assert computed(tmp_path) == [1, 1, 1, 1]
    # A seed after the other, so that a table is soon complete.
    assert [seed for seed, state in seen if state == "running"] == [0, 0, 1, 1]
    again = make_sweep(tmp_path, otherwise="fail")
    assert again.select("skipped") == again.jobs
    again.run()
    assert computed(tmp_path) == [1, 1, 1, 1]


def test_failures_are_kept_with_the_end_of_their_log(tmp_path):
    sweep = make_sweep(tmp_path, ("vgg", "fail"))
    sweep.run()
    assert computed(tmp_path) == [0, 1, 0, 1]
    failed = sweep.select("failed")
    assert [job.config.arch for job in failed] == ["vgg", "vgg"]
    assert failed[0].message == "Error: diverged"
    assert failed[0].tail == ["line 4", "line 5", "line 6", "line 7", "Error: diverged"]
    assert failed[0].run.status()["state"] == "running"
    again = make_sweep(tmp_path)
    assert again.select("waiting") == [again.jobs[0], again.jobs[2]]
    again.run()
    assert computed(tmp_path) == [1, 1, 1, 1]
    log = (failed[0].run.path / "run.log").read_text()
    assert log.count("GPU") == 2


def test_a_killed_process_is_a_failure(tmp_path):
    sweep = make_sweep(tmp_path, otherwise="crash", configs=CONFIGS[:1])
    sweep.run()
    assert sweep.jobs[0].state == "failed"
    assert sweep.jobs[0].message == "killed by SIGKILL"


def test_a_command_that_does_not_exist_is_a_failure(tmp_path):
    sweep = Sweep(CONFIGS[:1], tmp_path, lambda config: ["/nowhere/at/all"])
    sweep.run()
    assert sweep.jobs[0].state == "failed"
    assert sweep.jobs[0].message.startswith("cannot start: /nowhere/at/all: ")


def test_stopping_saves_and_the_next_sweep_goes_on(tmp_path):
    sweep = make_sweep(tmp_path, otherwise="wait", slots=[Slot()] * 2)
    running = [run_path(tmp_path, config) / "pids" for config in CONFIGS[:2]]
    sweep.run(should_stop=lambda: all(path.exists() for path in running))
    assert sweep.select("interrupted") == sweep.jobs[:2]
    assert sweep.select("waiting") == sweep.jobs[2:]
    for job in sweep.jobs[:2]:
        assert job.run.status()["state"] == "interrupted"
        assert (job.run.path / "run.log").read_text().endswith("saved\n")
    make_sweep(tmp_path).run()
    assert computed(tmp_path) == [1, 1, 1, 1]


def test_an_error_of_the_sweep_itself_stops_its_children(tmp_path):
    sweep = make_sweep(tmp_path, otherwise="wait")
    started = run_path(tmp_path, CONFIGS[0]) / "pids"

    def raise_error():
        if started.exists():
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        sweep.run(on_wait=raise_error)
    assert sweep.jobs[0].run.status()["state"] == "interrupted"


def test_slots_hold_one_run_at_a_time(tmp_path):
    slots = make_slots(per_device=2, environ={"CUDA_VISIBLE_DEVICES": "3"})
    sweep = make_sweep(tmp_path, slots=slots, otherwise="slow")
    sweep.run()
    times = []
    for job in sweep.jobs:
        assert (job.run.path / "run.log").read_text().startswith("GPU 3\n")
        begin, end = map(float, (job.run.path / "computed").read_text().split())
        times += [(begin, 1), (end, -1)]
    together, most = 0, 0
    for _, change in sorted(times):
        together += change
        most = max(most, together)
    assert most <= 2


def test_what_another_process_is_at_is_left_to_it(tmp_path):
    path = run_path(tmp_path, CONFIGS[0])
    path.mkdir(parents=True)
    with filelock.FileLock(path / ".lock"):
        sweep = make_sweep(tmp_path)
        assert sweep.jobs[0].run.is_locked()
        sweep.run()
        assert [job.state for job in sweep.jobs] == ["elsewhere", *["done"] * 3]
    assert not sweep.jobs[0].run.is_locked()
    assert computed(tmp_path) == [0, 1, 1, 1]


def test_a_sweep_waits_for_what_is_soon_free(tmp_path):
    path = run_path(tmp_path, CONFIGS[0])
    path.mkdir(parents=True)
    lock = filelock.FileLock(path / ".lock", thread_local=False)
    lock.acquire()
    threading.Timer(0.5, lock.release).start()
    sweep = make_sweep(tmp_path, configs=CONFIGS[:1], patience=60.0)
    sweep.run()
    assert sweep.jobs[0].state == "done"
    assert computed(tmp_path)[0] == 1


def test_two_sweeps_together_compute_each_run_once(tmp_path):
    sweeps = [make_sweep(tmp_path, otherwise="slow", patience=60.0) for _ in range(2)]
    threads = [threading.Thread(target=sweep.run) for sweep in sweeps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert computed(tmp_path) == [1, 1, 1, 1]
    for sweep in sweeps:
        assert sweep.select("done") == sweep.jobs


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
def test_children_of_a_killed_sweep_save_and_stop(tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from tests.test_sweep import make_sweep\n"
        "make_sweep(Path(sys.argv[2]), otherwise='wait').run()\n"
    )
    folder = Path(__file__).parents[1]
    process = subprocess.Popen([sys.executable, "-c", code, folder, tmp_path])
    path = run_path(tmp_path, CONFIGS[0])
    wait_for(lambda: (path / "pids").exists())
    process.send_signal(signal.SIGKILL)
    process.wait()
    # At once, while the child may still be saving.
    sweep = make_sweep(tmp_path, patience=60.0)
    sweep.run()
    assert sweep.select("done") == sweep.jobs
    assert computed(tmp_path) == [1, 1, 1, 1]
    first, second = map(int, (path / "pids").read_text().split())
    assert first != second
    wait_for(lambda: not is_alive(first))
    assert "saved" in (path / "run.log").read_text()


def test_a_folder_that_cannot_be_written(tmp_path):
    root = tmp_path / "results"
    root.write_text("a file")
    with pytest.raises(RunError, match=r"cannot write .*results"):
        make_sweep(root).run()


def test_a_run_whose_folder_cannot_be_made_hinders_no_other(tmp_path):
    path = run_path(tmp_path, CONFIGS[0]).parent
    path.parent.mkdir()
    path.write_text("a file")
    sweep = make_sweep(tmp_path)
    sweep.run()
    assert computed(tmp_path) == [0, 1, 0, 1]
    for job in sweep.select("failed"):
        assert job.message.startswith(f"cannot start: {path}")


def test_a_run_whose_status_cannot_be_read_is_left_to_its_process(tmp_path):
    path = run_path(tmp_path, CONFIGS[0])
    path.mkdir(parents=True)
    (path / "status.json").write_text("{")
    sweep = make_sweep(tmp_path)
    assert sweep.jobs[0].state == "waiting"
    sweep.run()
    assert computed(tmp_path) == [1, 1, 1, 1]


def test_slots():
    assert make_slots(environ={"JAX_PLATFORMS": "cpu"}) == [Slot()]
    assert make_slots(3, environ={"CUDA_VISIBLE_DEVICES": ""}) == [Slot()] * 3
    gpus = {"CUDA_VISIBLE_DEVICES": "2,5"}
    assert find_gpus(gpus) == ["2", "5"]
    slots = make_slots(per_device=2, environ=gpus)
    assert [slot.name for slot in slots] == ["GPU 2", "GPU 5", "GPU 2", "GPU 5"]
    assert slots[1].env == {
        "CUDA_VISIBLE_DEVICES": "5",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.45",
    }
    assert len(make_slots(1, environ=gpus)) == 1
    set_by_hand = {**gpus, "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.2"}
    slot = make_slots(environ=set_by_hand)[0]
    assert slot.env["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.2"
    with pytest.raises(UsageError, match="no NVIDIA GPU"):
        make_slots(per_device=2, environ={"JAX_PLATFORMS": "cpu"})


def test_gpus_are_listed_by_the_driver(tmp_path, monkeypatch):
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 0\necho 1\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert find_gpus({}) == ["0", "1"]
    smi.write_text("#!/bin/sh\nexit 9\n")
    assert find_gpus({}) == []

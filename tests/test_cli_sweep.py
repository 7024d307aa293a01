import io
import os
import re
import shlex
import signal
import subprocess
import sys

import pytest
from rich.console import Console

from eqcifar import storage, sweeps
from eqcifar_cli import _sweep_display
from eqcifar_cli._sweep_display import Display

from .cli_tools import TINY, run_cli, run_python, start_cli
from .test_sweep import make_sweep, wait_for

SWEEP = "sweep", *TINY[1:-2], "--epochs", "2"


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The folder of results of a sweep of two runs, and how it went."""
    out = tmp_path_factory.mktemp("results")
    process = start_cli(*SWEEP, "--seeds", "0-1", "--out", out)
    printed, errors = process.communicate(timeout=300)
    return out, process.returncode, printed, errors


def test_a_sweep_trains_every_run(swept):
    out, code, printed, errors = swept
    assert (code, errors) == (0, "")
    found = storage.find_runs(out)
    assert [run.config()["seed"] for run in found] == [0, 1]
    assert all(run.is_done() for run in found)
    lines = printed.splitlines()
    assert lines[0] == f"2 runs in {out}: 0 finished before, 2 to do, 1 at a time"
    names = [str(run.path.relative_to(out)) for run in found]
    assert lines[1] == f"[0/2] running     {names[0]}"
    assert lines[2].startswith(f"[1/2] done        {names[0]}  epoch 2/2  loss ")
    assert "SYNTHETIC" in lines[2]
    assert lines[-1] == "2 done"
    assert "\x1b" not in printed
    log = (found[0].path / "run.log").read_text()
    assert log.startswith("Training: resnet8")


def test_the_same_sweep_again_has_nothing_to_do(swept):
    out, *_ = swept
    result = run_cli(*SWEEP, "--seeds", "0-1", "--out", out)
    assert result.exit_code == 0
    assert result.stdout.endswith("\n2 finished before\n")


def test_dry_run_prints_a_command_a_line(swept):
    out, *_ = swept
    options = "--mixup", "0,0.4", "--seeds", "0-1", "--out", out, "--dry-run"
    passed_on = "--devices 1 --remat --track tensorboard --sharpness-every 5"
    result = run_cli(*SWEEP, *options, *passed_on.split())
    lines = result.stdout.splitlines()
    # Two of the four are done.
    assert [" --mixup 0.4 " in line for line in lines] == [True, True]
    for line in lines:
        program, command, *_ = shlex.split(line)
        assert (program, command) == ("eqcifar", "train")
        assert line.endswith(f" --out {out} {passed_on}")
    shards = [
        run_cli(*SWEEP, *options, "--shard", f"{part}/2").stdout for part in (1, 2)
    ]
    assert sorted("".join(shards).splitlines()) == sorted(
        line.removesuffix(f" {passed_on}") for line in lines
    )


def test_a_failure_shows_the_end_of_its_log_and_exits_1(tmp_path):
    measures = "--sharpness-every", 1, "--sharpness-measures", "foo"
    result = run_cli(*SWEEP, *measures, "--out", tmp_path)
    assert result.exit_code == 1
    message = "Error: unknown measure 'foo'; there are trace"
    assert message in result.stdout.splitlines()[2]
    assert f"\n    {message}" in result.stdout
    assert "run.log)" in result.stdout
    assert "1 failed\nRun the same command" in result.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="has no such signals")
@pytest.mark.slow
def test_ctrl_c_stops_every_run_resumably(tmp_path):
    options = "--epochs", 5000, "--eval-every", 5000, "--seeds", "0-1"
    process = start_cli(*SWEEP, *options, "--jobs", 2, "--out", tmp_path)

    def all_training():
        assert process.poll() is None
        return len(list(tmp_path.glob("*/*/seed*/log.tsv"))) == 2

    try:
        wait_for(all_training)
        process.send_signal(signal.SIGINT)
        printed, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Stopping to save" in errors
    assert printed.splitlines()[-2:] == [
        "2 interrupted",
        "Run the same command to go on with those that are not done.",
    ]
    for run in storage.find_runs(tmp_path):
        assert run.status()["state"] == "interrupted"
        assert not run.is_locked()


LISTEN = """
import os, signal, sys, time
from eqcifar_cli._stop import StopRequest, exit_code
if sys.argv[1:]:  # heeds all: under `nohup` one comes ignored
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
with StopRequest() as stop:
    if "early" in sys.argv:
        print("listening", flush=True)
        time.sleep(60)
    stop.listen()
    print("listening", flush=True)
    while not stop(): time.sleep(0.01)
    print("saving", flush=True)
    if "quick" in sys.argv:
        sys.exit(exit_code(stop.number))
    time.sleep(60)
"""


def start_listening(*arguments, **env):
    process = subprocess.Popen(
        [sys.executable, "-c", LISTEN, *arguments],
        env={**os.environ, **env},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin
    assert process.stdout
    assert process.stdout.readline() == "listening\n"
    return process, process.stdin, process.stdout


SCHEDULERS = "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP"


@pytest.mark.skipif(sys.platform == "win32", reason="has no such signals")
@pytest.mark.parametrize("name", SCHEDULERS)
def test_what_schedulers_send_saves_and_says_start_again(name):
    for when in ("early", "quick"):
        process, stdin, stdout = start_listening(when)
        process.send_signal(getattr(signal, name))
        assert process.wait(timeout=30) == 75
        assert stdout.read() == ("" if when == "early" else "saving\n")
        stdin.close()
        stdout.close()


@pytest.mark.skipif(sys.platform == "win32", reason="has no such signals")
def test_warnings_do_not_hurry_and_those_ignored_do_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process, stdin, stdout = start_listening()
    finally:
        signal.signal(signal.SIGHUP, before)
    # As after `nohup`.
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGUSR1)
    assert stdout.readline() == "saving\n"
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGHUP):
        process.send_signal(number)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130
    stdin.close()
    stdout.close()


@pytest.mark.skipif(sys.platform == "win32", reason="has no such signals")
def test_a_scheduler_that_sends_sigterm_twice_sends_it_once():
    process, stdin, stdout = start_listening()
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    assert stdout.readline() == "saving\n"
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130
    stdin.close()
    stdout.close()


@pytest.mark.skipif(sys.platform == "win32", reason="has no such signals")
def test_a_run_stops_when_its_sweep_is_gone_and_ends_when_it_was_stopping():
    env = {sweeps.STOP_AT_EOF: "1"}
    process, stdin, stdout = start_listening(**env)
    stdin.close()
    assert stdout.readline() == "saving\n"
    process.kill()
    process.wait()
    stdout.close()

    process, stdin, stdout = start_listening(**env)
    process.send_signal(signal.SIGTERM)
    assert stdout.readline() == "saving\n"
    stdin.close()
    assert process.wait(timeout=30) == 130
    stdout.close()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ("--lr 0.1,x", "lr = 'x': must be a number"),
        ("--lr 0.1,0", "lr = 0.0: must be above 0"),
        ("--shard 3/2", "shard '3/2': must be i/n"),
        ("--sbatch time=3", "--sbatch needs --slurm"),
        ("--per-device 2", "no NVIDIA GPU is visible here: use --jobs instead"),
        ("--slurm", "there is no sbatch here"),
        ("vgg", "unexpected extra argument(s) (vgg)"),
        ("--loss my.loss", "loss = 'my.loss': only Python has it"),
        ("--track foo", "unknown tracker 'foo'; there are tensorboard"),
        ("--sharpness-every=-1", "sharpness_every = -1: must be at least 0"),
        ("--file nowhere.toml", "cannot read nowhere.toml: No such file"),
    ],
)
def test_usage_errors_are_one_line_and_exit_2(tmp_path, options, line):
    out = "--out", tmp_path / "results"
    result = run_cli("sweep", *options.split(), *out, PATH="", JAX_PLATFORMS="cpu")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert line in result.stderr
    assert not (tmp_path / "results").exists()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "results").write_text("a file")
    result = run_cli(*SWEEP, "--out", tmp_path / "results")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: cannot write {tmp_path / 'results'}")
    assert result.stderr.count("\n") == 1


def test_a_sweep_does_not_import_jax(swept):
    out, *_ = swept
    arguments = *SWEEP, "--out", str(out)
    loaded = run_python(
        "import sys\n"
        "from eqcifar_cli import app\n"
        f"try: app({list(arguments)!r})\n"
        "except SystemExit: pass\n"
        "print('LOADED', *sys.modules)"
    ).split("LOADED", 1)[1]
    assert "eqcifar_cli._sweep_display" in loaded.split()
    assert not {"jax", "datasets", "equinox", "numpy"} & set(loaded.split())


def test_a_terminal_shows_what_is_running(tmp_path, monkeypatch):
    file = io.StringIO()
    screen = Console(file=file, force_terminal=True, width=160, color_system=None)
    monkeypatch.setattr(_sweep_display, "console", lambda: screen)
    sweep = make_sweep(tmp_path, slots=[sweeps.Slot("GPU 0")], otherwise="slow")
    with Display(sweep, tmp_path) as display:
        sweep.run(on_change=display.on_change, on_wait=display.on_wait)
    shown = file.getvalue()
    name = os.path.relpath(sweep.jobs[0].run.path, tmp_path)
    # A stub's only words are those of its GPU.
    assert re.search("1 running, [123] waiting", shown)
    for part in ("run", "progress", "GPU None", "GPU 0"):
        assert part in shown
    assert f"[1/4] done        {name}" in shown


def test_without_a_terminal_what_is_running_is_told_now_and_then(tmp_path, monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr(_sweep_display, "console", lambda: Console(file=file))
    monkeypatch.setattr(_sweep_display, "_SECONDS_BETWEEN_LINES", 0.0)
    sweep = make_sweep(tmp_path, slots=[sweeps.Slot("")], otherwise="slow")
    with Display(sweep, tmp_path) as display:
        sweep.run(on_change=display.on_change, on_wait=display.on_wait)
    name = os.path.relpath(sweep.jobs[0].run.path, tmp_path)
    line = rf"^\[0/4\] running     {re.escape(name)}  GPU None  for \d+ s$"
    assert re.search(line, file.getvalue(), re.MULTILINE)


@pytest.fixture
def fake_slurm(tmp_path, monkeypatch):
    """Programs named as SLURM's; sbatch keeps what it is given, or refuses it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("srun", "sbatch"):
        (folder / name).write_text(
            "#!/bin/sh\n"
            "grep -q refuse $1 && echo 'sbatch: no such partition' >&2 && exit 1\n"
            f"cp $1 {tmp_path}/script\n"
            "echo Submitted batch job 17\n"
        )
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return tmp_path / "script"


def test_slurm_gets_a_job_array(fake_slurm, tmp_path):
    out = tmp_path / "results"
    options = "--seeds", "0-2", "--out", out, "--slurm", "--jobs", 2
    sbatch = "--sbatch", "time=90", "--sbatch", "gpus-per-node=1", "--sbatch=exclusive"
    result = run_cli(*SWEEP, *options, *sbatch)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("Submitted 3 of 3 runs")
    assert "squeue --jobs 17\n" in result.stdout
    lines = fake_slurm.read_text().splitlines()
    for option in (
        *("array=0-2%2", "time=90", "gpus-per-node=1", "signal=USR2@90"),
        *("job-name=eqcifar", "open-mode=append"),
    ):
        assert f"#SBATCH --{option}" in lines
    assert "#SBATCH --requeue" in lines
    assert "#SBATCH --exclusive" in lines
    assert len(list((out / ".slurm").glob("17_*_submitted.pkl"))) == 3


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("partition=refuse", "sbatch refused: "),
        ("time=1:00:00", "time = 1:00:00: must be a whole number of minutes"),
    ],
)
def test_slurm_refusals_are_one_line(fake_slurm, tmp_path, option, message):
    result = run_cli(*SWEEP, "--out", tmp_path, "--slurm", "--sbatch", option)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert message in result.stderr

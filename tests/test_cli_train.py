import dataclasses
import io
import json
import math
import os
import signal
import socket
import sys
import time

import pytest
from rich.console import Console

from eqcifar import data, runs, storage
from eqcifar.errors import UsageError
from eqcifar.runs._alike import check_shared
from eqcifar.training import Diverged, Progress
from eqcifar_cli._progress import Reporter, format_row

from .cli_tools import TINY, run_cli, run_python, start_cli
from .helpers import small_dataset


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of results with one finished run, and what training printed."""
    out = tmp_path_factory.mktemp("results")
    result = run_cli(*TINY, "--epochs", 2, "--val-size", 20, "--out", out)
    assert result.exit_code == 0, result.stderr
    return out, result.stdout


def test_train_prints_a_line_an_epoch(trained):
    out, printed = trained
    run = storage.latest_run(out)
    lines = printed.splitlines()
    assert len(lines) == 9
    assert lines[0] == (
        "Training: resnet8 (5,006 parameters, mse loss) on SYNTHETIC (10 classes of "
        "procedural images): 40 train, 20 val, 20 test images"
    )
    assert lines[1] == f"Results in {run.path}"
    planned = run.environment()["memory"]["step_planned_bytes"]
    assert lines[2] == "Compiling"
    assert lines[3] == f"A step needs {planned / 1e9:.2f} GB on each device"
    for number, line in enumerate(lines[4:6], 1):
        assert line.startswith(f"epoch {number}/2  loss ")
        assert line.endswith("images/s  SYNTHETIC")
        assert "  val " in line
    assert lines[6].startswith("Finished: epoch 2/2")
    assert lines[8].startswith("Next: eqcifar eval ")
    assert "\r" not in printed
    assert "\x1b" not in printed


def test_lines_hold_the_numbers_of_the_log(trained):
    out, printed = trained
    row = storage.latest_run(out).log()[-1]
    assert f"loss {row['loss']:.4f}" in printed
    assert f"test {100 * row['acc_te']:.2f} %" in printed


def test_a_finished_run_is_not_computed_again(trained):
    out, _ = trained
    before = (storage.latest_run(out).path / "model.safetensors").stat().st_mtime_ns
    result = run_cli(*TINY, "--epochs", 2, "--val-size", 20, "--out", out)
    assert result.exit_code == 0
    assert result.stdout.startswith("Finished before, nothing to do: epoch 2/2")
    assert (
        storage.latest_run(out).path / "model.safetensors"
    ).stat().st_mtime_ns == before


def test_eval_measures_the_latest_run(trained):
    out, _ = trained
    row = storage.latest_run(out).log()[-1]
    result = run_cli("eval", "--out", out)
    assert result.exit_code == 0, result.stderr
    assert "SYNTHETIC" in result.stdout
    assert "20 test images" in result.stdout
    assert f"{100 * row['acc_te']:.2f} %" in result.stdout
    for line in (
        "top-5 accuracy",
        "mse loss, per image",
        "plug-in",
        "calibration",
        "accuracy on disc",
    ):
        assert line in result.stdout


def test_eval_json_has_full_precision(trained):
    out, _ = trained
    run = storage.latest_run(out)
    row = run.log()[-1]
    result = run_cli("eval", run.path, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    values = json.loads(result.stdout)
    assert values["synthetic"] is True
    assert values["examples"] == 20
    assert values["accuracy"]["value"] == row["acc_te"]
    assert values["loss"]["value"] == pytest.approx(row["loss_te"], rel=1e-5)
    accuracy, low, high = values["accuracy"].values()
    assert 0 <= low <= accuracy <= high <= 1
    assert len(values["class_accuracy"]) == 10
    means = [interval["value"] for interval in values["class_accuracy"].values()]
    # Two test images of each class, so that the classes weigh the same.
    assert sum(means) / 10 == pytest.approx(accuracy)


def test_eval_takes_a_model_file_and_another_split(trained):
    out, _ = trained
    run = storage.latest_run(out)
    result = run_cli("eval", run.path / "model.safetensors", "--split", "val", "--json")
    values = json.loads(result.stdout)
    assert values["split"] == "val"
    assert values["accuracy"]["value"] == run.log()[-1]["acc_va"]


def test_eval_refuses_other_classes(trained, monkeypatch):
    out, _ = trained
    monkeypatch.setattr(data, "load", lambda name: small_dataset(classes=4))
    result = run_cli("eval", "--out", out, "--dataset", "mine")
    assert result.exit_code == 2
    assert "has 4 classes, but the network was trained for 10" in result.stderr
    result = run_cli("eval", "--out", out, "--dataset", "mine", "--split", "val")
    assert result.exit_code == 2


def test_eval_wants_a_loss_where_it_has_none_of_that_name(trained, monkeypatch):
    out, _ = trained
    loaded = runs.load_model(storage.latest_run(out))
    config = dataclasses.replace(loaded.config, loss="mine.loss")
    other = dataclasses.replace(loaded, config=config)
    monkeypatch.setattr("eqcifar.runs._evaluate.load_model", lambda path: other)
    result = run_cli("eval", "--out", out)
    assert result.exit_code == 2
    assert "no loss 'mine.loss' here: choose mse or ce" in result.stderr
    result = run_cli("eval", "--out", out, "--loss", "ce", "--json")
    assert json.loads(result.stdout)["loss_name"] == "ce"


def test_eval_refuses_damaged_files(trained, tmp_path):
    out, _ = trained
    damaged = tmp_path / "model.safetensors"
    damaged.write_bytes(
        (storage.latest_run(out).path / "model.safetensors").read_bytes()[:-1]
    )
    result = run_cli("eval", damaged)
    assert result.exit_code == 1
    assert "damaged" in result.stderr
    assert result.stderr.count("\n") == 1


def test_train_refuses_before_it_makes_a_folder(tmp_path):
    for option, message in (
        (("--arch", "resnet19"), "unknown architecture"),
        (("--devices", 99), "99 devices asked for"),
        (("--dataset", "nowhere"), "unknown dataset"),
        (("--batch-size", 41), "larger than the training set of 40"),
        (("--crop-pad", 32), "give a --crop-pad below 32"),
        (("--cutout", 33), "give a --cutout of 32 at most"),
    ):
        result = run_cli(*TINY, *option, "--out", tmp_path / "results")
        assert result.exit_code == 2
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
        assert not (tmp_path / "results").exists()


def test_a_results_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "results").write_text("a file")
    result = run_cli(*TINY, "--out", tmp_path / "results")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert str(tmp_path / "results") in result.stderr


def test_a_run_that_fails_exits_1(monkeypatch, tmp_path):
    def diverge(*_, **__):
        raise Diverged("training diverged: loss is nan in epoch 1;\nlower the rate")

    monkeypatch.setattr(runs, "train_run", diverge, raising=False)
    result = run_cli(*TINY, "--out", tmp_path)
    assert result.exit_code == 1
    line = "Error: training diverged: loss is nan in epoch 1; lower the rate\n"
    assert result.stderr == line


@pytest.mark.skipif(sys.platform == "win32", reason="has no such signals")
def test_interrupted_training_is_continued_by_the_same_command(tmp_path):
    command = *TINY, "--epochs", 5000, "--eval-every", 5000, "--out", tmp_path
    for number, code, start in (
        (signal.SIGUSR1, 75, "Training: "),
        (signal.SIGINT, 130, "Going on after step "),
    ):
        # As in many a cluster's log.
        process = start_cli(*command, PYTHONIOENCODING="ascii")
        assert process.stdout
        assert process.stdout.readline().startswith(start)
        while not process.stdout.readline().startswith("epoch "):
            assert process.poll() is None
        process.send_signal(number)
        output, errors = process.communicate(timeout=120)
        assert process.returncode == code, errors
        assert "Stopping to save" in errors
        assert output.splitlines()[-1].startswith("Interrupted: stopped after step ")
        assert "Run the same command to go on." in output
        (run,) = storage.find_runs(tmp_path)
        assert run.status()["state"] == "interrupted"
    log = run.log()
    assert [row["epoch"] for row in log] == list(range(1, len(log) + 1))
    result = run_cli("eval", run.path)
    assert result.exit_code == 0
    assert "is not finished: its network of step" in result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="has no such signals")
def test_a_second_signal_ends_at_once():
    code = (
        "import os, signal, threading, time\n"
        "from eqcifar_cli._stop import StopRequest\n"
        "with StopRequest() as stop:\n"
        "    stop.listen()\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    while not stop(): time.sleep(0.01)\n"
        "    print('first', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(60)\n"
    )
    begin = time.monotonic()
    with pytest.raises(Exception, match="exit status 130") as error:
        run_python(code)
    assert "first" in error.value.stdout  # pyright: ignore
    assert time.monotonic() - begin < 30


def test_signals_are_as_before_after_training():
    before = signal.getsignal(signal.SIGTERM)
    from eqcifar_cli._stop import StopRequest

    with StopRequest() as stop:
        stop.listen()
        assert signal.getsignal(signal.SIGTERM) != before
        os.kill(os.getpid(), signal.SIGTERM)
        deadline = time.monotonic() + 30
        while not stop() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert stop.number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_terminal_shows_a_bar():
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100, color_system=None)
    with Reporter(console, epochs=2) as reporter:
        reporter.start(0, "SYNTHETIC")
        reporter.on_compile()
        time.sleep(0.3)
        reporter.on_progress(Progress(1, 10, 40, 0.25, 1234.5))
        time.sleep(0.3)
        reporter.on_epoch({"epoch": 1, "loss": 0.5, "images_per_s": 1000.0})
    shown = file.getvalue()
    for part in ("compiling", "epoch 1/2  loss 0.2500  1234 images/s", "left"):
        assert part in shown
    assert "epoch 1/2  loss 0.5000  1000 images/s  SYNTHETIC\n" in shown


def _start_two(*each: tuple):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    return [
        start_cli(
            *TINY[:-2],
            *options,
            *("--coordinator", f"localhost:{port}", "--processes", 2),
            *("--process-id", process),
            JAX_CPU_COLLECTIVES_IMPLEMENTATION="gloo",
        )
        for process, options in enumerate(each)
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--coordinator", "localhost:1"), "go together: give all 3"),
        (
            ("--coordinator", "localhost:1", "--processes", 2, "--process-id", 2),
            "numbers are from 0 to 1",
        ),
    ],
)
def test_processes_by_hand_are_named_whole(options, said, tmp_path):
    result = run_cli(*TINY[:-2], "--out", tmp_path, *options)
    assert result.exit_code == 2
    assert said in result.stderr


def test_processes_of_different_options_end_before_they_train(tmp_path):
    same = "--out", tmp_path, "--lr", 0.1
    processes = _start_two(same, (*same, "--weight-decay", 0.01, "--lr", 0.2))
    ends = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [2, 2]
    for _, errors in ends:
        for part in (
            "not started alike",
            "lr 0.1 in process 0, 0.2 in process 1",
            "weight_decay 0.0005 in process 0, 0.01 in process 1",
        ):
            assert part in errors
    assert not list(tmp_path.iterdir())


def test_processes_that_share_no_folder_end_in_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr("eqcifar.runs._alike._PATIENCE", 0.0)
    with pytest.raises(UsageError, match="is not the same folder for all processes"):
        check_shared(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("{}")
    check_shared(tmp_path / "config.json")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="has no such signals")
def test_a_signal_to_one_process_stops_all_alike(tmp_path):
    options = "--epochs", 5000, "--eval-every", 5000, "--out", tmp_path
    processes = _start_two(options, options)
    try:
        main, other = processes
        assert main.stdout
        while not main.stdout.readline().startswith("epoch "):
            assert main.poll() is None
        other.send_signal(signal.SIGTERM)
        ends = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [75, 75], ends
    assert ends[0][0].splitlines()[-1].startswith("Interrupted: stopped after step ")
    assert "Finished" not in ends[0][0]
    (run,) = storage.find_runs(tmp_path)
    assert run.status()["state"] == "interrupted"


def test_a_row_without_evaluation_is_a_shorter_line():
    row = {"epoch": 3, "loss": 0.5, "acc_te": math.nan, "images_per_s": 1234.5}
    assert format_row(row, 200) == "epoch   3/200  loss 0.5000  1234 images/s"


def test_stability_is_followed_step_by_step(tmp_path):
    arguments = *TINY, "--epochs", 2, "--stability-every", 1, "--out", tmp_path
    result = run_cli(*arguments)
    assert result.exit_code == 0, result.stderr
    run = storage.latest_run(tmp_path)
    rows = storage.read_wide(run.path / "stability.tsv")
    per_epoch = len(rows) // 2
    assert [int(row["step"]) for row in rows] == list(range(2 * per_epoch))
    assert rows[1]["loss"] != rows[0]["loss"]
    refused = run_cli(*arguments, "--optimiser", "muon", "--muon-lr", 0.1)
    assert refused.exit_code == 2
    assert "no threshold is known of the optimiser muon" in refused.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="has no such signals")
@pytest.mark.parametrize(
    ("number", "said"),
    [
        ("SIGKILL", "the connection to another process is lost"),
        pytest.param(
            *("SIGSTOP", "no sign of life from process 1 for 20 s"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_lost_process_ends_the_others_with_a_line(tmp_path, number, said):
    options = "--epochs", 5000, "--eval-every", 5000, "--out", tmp_path
    main, other = processes = _start_two(options, options)
    try:
        assert main.stdout
        while not main.stdout.readline().startswith("epoch "):
            assert main.poll() is None
        other.send_signal(getattr(signal, number))
        _, errors = main.communicate(timeout=60)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert main.returncode == 75, errors
    assert said in errors
    assert "Traceback" not in errors

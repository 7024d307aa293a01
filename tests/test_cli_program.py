import errno
import os
import re
import signal
import subprocess
import sys

import pytest

import eqcifar
from eqcifar.config import TrainConfig
from eqcifar_cli import _program

from .cli_tools import run_cli, run_python, start_cli
from .results_tools import write_run


def test_help_names_every_command():
    result = run_cli("--help")
    assert result.exit_code == 0
    for command in ("train", "eval", "archs", "data", "doctor", "--version"):
        assert command in result.stdout
    assert "install-completion" in result.stdout


@pytest.mark.parametrize("command", ["", "train", "sharpness", "data", "data export"])
def test_help_in_a_narrow_terminal_breaks_no_word(command):
    wide, narrow = (
        run_cli(*command.split(), "--help", COLUMNS=columns).stdout
        for columns in ("1000", "40")
    )
    lines = narrow.splitlines()
    # All but what has no blank to break it at.
    assert not [x for x in lines if len(x) > 40 and " " in x.strip()]
    words = set(narrow.split())
    for line in wide.splitlines():
        if not line.startswith("│"):
            continue
        for word in re.findall(r"(?<= )[a-z][a-z-]+[.,:;]?(?= )", line):
            assert word in words


def test_no_arguments_is_a_usage_error_with_help():
    result = run_cli()
    assert result.exit_code == 2
    assert "Usage: eqcifar" in result.stdout
    assert "Error" not in result.stderr


def test_version():
    result = run_cli("--version")
    assert (result.exit_code, result.stdout) == (0, f"eqcifar {eqcifar.__version__}\n")


@pytest.mark.parametrize("arguments", ["--help", "train --help", "eval --help"])
def test_help_imports_nothing_slow(arguments):
    loaded = run_python(
        "import sys\n"
        "from eqcifar_cli import app\n"
        f"try: app({arguments.split()!r})\n"
        "except SystemExit: pass\n"
        "print('LOADED', *sys.modules)"
    ).split("LOADED", 1)[1]
    assert "eqcifar_cli._train" in loaded.split()
    assert not {"jax", "datasets", "equinox", "optax", "numpy"} & set(loaded.split())


def test_library_never_imports_the_command_line():
    loaded = run_python(
        "import pkgutil, sys, importlib, eqcifar\n"
        "for module in pkgutil.walk_packages(eqcifar.__path__, 'eqcifar.'):\n"
        "    importlib.import_module(module.name)\n"
        "print(*sys.modules)"
    ).split()
    assert "eqcifar.training._fit" in loaded
    assert not {"typer", "rich", "eqcifar_cli"} & set(loaded)


def test_completion_script_and_values():
    # Or Typer looks for the shell that the tests were started from, which may be none.
    named = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    script = start_cli("--show-completion", "bash", **named)
    assert "_EQCIFAR" in script.communicate()[0].upper()
    env = os.environ | {
        "_EQCIFAR_COMPLETE": "complete_bash",
        "COMP_WORDS": "eqcifar train --dataset syn",
        "COMP_CWORD": "3",
    }
    code = "from eqcifar_cli import app; app(prog_name='eqcifar')"
    completed = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True
    )
    assert completed.stdout.split() == ["synthetic", "synthetic100"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("trian", "No such command 'trian'. Did you mean 'train',"),
        ("train --epoch 3", "No such option: --epoch"),
        ("train --epochs x", "Invalid value for '--epochs'"),
        ("train --loss l1", "'--loss'"),
        ("train --lr 0", "lr = 0.0: must be above 0"),
        ("train --bn-group 3", "bn_group = 3: must be 0 or a divisor"),
        ("archs resnet19", "unknown architecture 'resnet19'; did you mean 'resnet18'?"),
        ("train --arch resnet99", "unknown architecture 'resnet99'"),
        ("train --dataset /nonexistent", "'/nonexistent': there is no such folder"),
        ("data info nowhere", "unknown dataset 'nowhere'"),
        ("eval --out nowhere", "no folder nowhere"),
        ("eval nowhere", "no file nowhere"),
    ],
)
def test_usage_errors_are_one_line_and_exit_2(arguments, line):
    result = run_cli(*arguments.split())
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert line in result.stderr


def test_failures_exit_1():
    result = run_cli("data", "info", "cifar10", EQCIFAR_CACHE="/nowhere/at/all")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "HF_HUB_OFFLINE" in result.stderr


@pytest.mark.parametrize(
    ("at", "arguments"),
    [
        ("eqcifar.runs.evaluate_run", "eval results"),
        ("eqcifar.exchange.classify", "predict results image.png"),
        ("eqcifar.results.read_records", "tabulate results"),
        ("eqcifar.results.pivot", "tabulate results"),
    ],
)
def test_ctrl_c_is_exit_code_130_and_prints_nothing(
    monkeypatch, tmp_path, at, arguments
):
    write_run(tmp_path / "results", TrainConfig(epochs=1))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("eqcifar.runs.load_model", lambda path: None)
    monkeypatch.setattr("eqcifar.exchange.read_images", lambda paths: ReadNothing())
    monkeypatch.setattr(at, lambda *_, **__: signal.raise_signal(signal.SIGINT))
    # A shell that starts the tests in the background has them ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        result = run_cli(*arguments.split())
    finally:
        signal.signal(signal.SIGINT, before)
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "")


class ReadNothing:
    errors, assumed, paths, pixels = {}, {}, (), None


def test_debug_shows_the_traceback():
    result = run_cli("archs", "resnet19", EQCIFAR_DEBUG="1")
    assert type(result.exception).__name__ == "UsageError"


def test_other_failures_have_a_remedy():
    full = OSError(errno.ENOSPC, "No space left on device", "/data/last.x")
    line = "No space left on device: /data/last.x; free some space and run the same"
    assert (_program.describe(full) or "").startswith(line)
    assert "--batch-size" in (_program.describe(MemoryError()) or "")
    assert _program.describe(RuntimeError("a bug")) is None


def test_output_survives_an_ascii_terminal():
    process = start_cli("train", "--help", PYTHONIOENCODING="ascii")
    output, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    assert "Optimisation" in output


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("train --mean 0.5", "--mean needs three numbers, for red, green and blue"),
        ("train --mean 1 2 x", "Invalid value for '--mean': must be a number"),
        ("train --lr x", "Invalid value for '--lr': must be a number"),
        ("train --epochs 1.5", "Invalid value for '--epochs': must be a whole number"),
        ("train --augment=3", "--augment takes no value: give it alone"),
        ("train --seed", "--seed needs a value"),
        ("train --grad-accum 0", "grad_accum = 0: must be at least 1"),
        ("train --flip x", "'--flip': 'x' is not one of 'random', 'alternating'"),
        (
            "sharpness --probes x",
            "Invalid value for '--probes': must be a whole number",
        ),
        ("tabulate --ddof 2", "Invalid value for '--ddof': must be 1 or less"),
    ],
)
def test_a_value_of_the_wrong_kind_is_one_clear_line(arguments, line):
    result = run_cli(*arguments.split())
    assert result.exit_code == 2
    assert line in result.stderr
    assert result.stderr.count("\n") == 1
    assert "Input should" not in result.stderr


NAMES = """
import sys, typer
from eqcifar_cli import _output, _program
name = "a\\x1b]0;title\\x07[red]\\x1b[31m\\u202e\\udcffz"
app = typer.Typer(cls=_program.Program, pretty_exceptions_enable=False)
@app.command()
def show():
    typer.echo(name)
    _output.say(name)
    _output.print_table(name, ("x",), [(name,)])
    _output.print_warning(name)
    print(name, file=sys.stderr)
@app.command()
def fail():
    from eqcifar.errors import RunError
    raise RunError(name)
"""


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_names_cannot_command_a_terminal(encoding):
    for command in ("show", "fail"):
        done = subprocess.run(
            [sys.executable, "-c", f"{NAMES}\napp([{command!r}])"],
            env={**os.environ, "PYTHONIOENCODING": encoding},
            capture_output=True,
            text=True,
            encoding=encoding,
        )
        assert done.returncode == (0 if command == "show" else 1)
        printed = done.stdout + done.stderr
        assert printed.count("[red]") == (6 if command == "show" else 1)
        assert printed.count("\\x1b]0;title\\x07") == printed.count("[red]")
        assert "\\u202e" in printed
        assert not {"\x1b", "\x07", "\u202e"} & set(printed)


def run_in_terminal(code, columns, key, term="xterm"):
    """What a program prints in a terminal, where a key is pressed after `ready`."""
    import fcntl
    import pty
    import struct
    import termios

    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    own = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    process = subprocess.Popen(
        [sys.executable, "-c", own + code],
        stdin=end,
        stdout=end,
        stderr=end,
        start_new_session=True,
        # The terminal's own size counts, not one that readline has left behind.
        env={
            name: value
            for name, value in {**os.environ, "TERM": term}.items()
            if name not in ("COLUMNS", "LINES")
        },
    )
    printed = b""
    while b"last\r\n" not in printed:
        received = os.read(terminal, 4096)
        if b"ready" in received:
            os.write(terminal, key)
        printed += received
    returned = process.wait(timeout=30)
    modes = termios.tcgetattr(end)
    os.close(end)
    os.close(terminal)
    return returned, printed.decode(), modes


IN_TERMINAL = """
import time, sys
from eqcifar_cli._output import console, say
from eqcifar_cli._progress import Reporter
from eqcifar_cli._stop import StopRequest, exit_code
reporter = Reporter(console(), 20)
with StopRequest(reporter.bar) as stop, reporter:
    stop.listen()
    reporter.start(0, "")
    reporter.print("ready: many words that do not fit into so narrow a line")
    while not stop(): time.sleep(0.01)
say("last")
sys.exit(exit_code(stop.number))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no such terminals")
def test_a_terminal_without_commands_gets_lines_and_no_bar():
    code, printed, _ = run_in_terminal(
        IN_TERMINAL.replace("print(", "on_compile(); reporter.print("),
        40,
        b"\x03",
        "dumb",
    )
    assert code == 130
    assert "\x1b" not in printed
    lines = ["Compiling", "ready: many words that do not fit into so narrow a line"]
    assert printed.splitlines()[:2] == lines
    assert printed.endswith("Stopping to save; once more to quit at once.\r\nlast\r\n")


@pytest.mark.skipif(sys.platform == "win32", reason="has no such terminals")
def test_ctrl_c_leaves_no_piece_of_a_bar():
    import termios

    code, printed, modes = run_in_terminal(IN_TERMINAL, 40, b"\x03")
    assert code == 130
    assert "ready: many words that do not fit into\r\nso narrow a line\r\n" in printed
    # The echo of the key would begin another line.
    assert "^C" not in printed
    assert modes[3] & termios.ECHOCTL
    before, after = printed.split("Stopping to save; once more to quit at\r\nonce.\r\n")
    assert before.endswith("\r\x1b[2K")
    # The bar is removed, the cursor shown.
    assert after.endswith("\x1b[?25h\r\x1b[1A\x1b[2Klast\r\n")

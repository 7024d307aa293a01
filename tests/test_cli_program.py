import errno
import subprocess
import sys

import pytest

import eqcifar
from eqcifar_cli import _program

from .cli_tools import run_cli, run_python, start_cli


def test_help_names_every_command():
    result = run_cli("--help")
    assert result.exit_code == 0
    for command in ("train", "eval", "archs", "data", "doctor", "--version"):
        assert command in result.stdout
    assert "install-completion" in result.stdout


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
    env = {
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
        ("trian", "No such command 'trian'. Did you mean 'train'?"),
        ("train --epoch 3", "No such option: --epoch"),
        ("train --epochs x", "Invalid value for '--epochs'"),
        ("train --loss l1", "'--loss'"),
        ("train --lr 0", "lr = 0.0: must be greater than 0"),
        ("train --bn-group 3", "bn_group = 3: must be 0 or a divisor"),
        ("archs resnet19", "unknown architecture 'resnet19'; nearest: resnet18"),
        ("train --arch resnet99", "unknown architecture 'resnet99'"),
        ("train --dataset /nonexistent", "'/nonexistent': there is no such folder"),
        ("data info nowhere", "Unknown dataset 'nowhere'"),
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


def test_debug_shows_the_traceback():
    result = run_cli("archs", "resnet19", EQCIFAR_DEBUG="1")
    assert type(result.exception).__name__ == "UsageError"


def test_other_failures_have_a_remedy():
    full = OSError(errno.ENOSPC, "No space left on device", "/data/last.eqx")
    line = "No space left on device: /data/last.eqx; free some space and run the same"
    assert (_program.describe(full) or "").startswith(line)
    assert "--batch-size" in (_program.describe(MemoryError()) or "")
    assert _program.describe(RuntimeError("a bug")) is None


def test_output_survives_an_ascii_terminal():
    process = start_cli("train", "--help", PYTHONIOENCODING="ascii")
    output, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    assert "Optimisation" in output

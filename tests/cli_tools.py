"""Runs the command line, in this process and in one of its own."""

import os
import subprocess
import sys
from typing import Any

import typer
from typer.testing import CliRunner, Result

from eqcifar_cli import app
from eqcifar_cli._options import with_options
from eqcifar_cli._program import Program

# One device, as the tests pretend to have eight; a network of four channels.
TINY = (
    *("train", "--dataset", "synthetic", "--limit-train", "40", "--limit-test", "20"),
    *("--arch", "resnet8", "--width", "0.25", "--batch-size", "20", "--lr", "0.1"),
    *("--devices", "1"),
)


def run_cli(*arguments: object, **env: str) -> Result:
    """The outcome of a command line, run in this process."""
    env = {"COLUMNS": "100", **env}
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env=env)


def parse_options(kind: Any, *arguments: object) -> tuple[Any, Result]:
    """What a command that takes this kind of options is given, and the outcome."""
    found = []
    program = typer.Typer(cls=Program)

    @with_options
    def command(given: kind):  # pyright: ignore
        found.append(given)

    program.command("it")(command)
    program.command()(lambda: None)
    result = CliRunner().invoke(program, ["it", *map(str, arguments)])
    return found[0] if found else None, result


def start_cli(*arguments: object, first: str = "", **env: str) -> subprocess.Popen[str]:
    """A command line that has been started in a process of its own.

    With `first`, a Python program runs before it in that process.
    """
    program = f"{first}\nfrom eqcifar_cli import app\napp(prog_name='eqcifar')"
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_python(code: str) -> str:
    """What a Python program prints, run in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout

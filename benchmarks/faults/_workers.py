"""Processes that have imported everything, each of which runs one command.

A start takes some hundred milliseconds: the server has imported JAX but started nothing
of it, and its children share what they compile.
"""

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ._inside import run

_SERVER = multiprocessing.get_context("forkserver")
_MODULES = (
    *("jax", "optax", "eqcifar.runs", "eqcifar.measurements", "eqcifar.results"),
    *("eqcifar_cli", "eqcifar_cli._training", "benchmarks.faults._inside"),
)
_LONGEST = 240.0


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[None]:
    """Settings of all processes that are started meanwhile."""
    settings = {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "EQCIFAR_CACHE": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "200",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    _SERVER.set_forkserver_preload([*_MODULES])
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


class Worker:
    """A command in a process of its own, whose output goes to files."""

    def __init__(
        self,
        folder: Path,
        *command: object,
        work: Callable[..., Any] | None = None,
        prepare: Callable[[], None] | None = None,
        jax: Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
    ):
        """Start it.

        **Arguments:**

        - `folder`: for its output.
        - `command`: arguments of `eqcifar`, or of `work` if that is given.
        - `work`: what to do in place of a command of `eqcifar`.
        - `prepare`: called in the process before.
        - `jax`: options of JAX.
        - `env`: variables.
        """
        folder.mkdir(parents=True, exist_ok=True)
        number = len([*folder.glob("output*")])
        self._output = folder / f"output{number}"
        self._errors = folder / f"errors{number}"
        files = self._output, self._errors
        self._output.touch()
        self._errors.touch()
        self.process = _SERVER.Process(
            target=run, args=(files, prepare, jax or {}, env or {}, work, command)
        )
        self.process.start()
        self.began = time.monotonic()

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self._output.read_text(errors="replace")

    @property
    def errors(self) -> str:
        """What it has told on stderr so far."""
        return self._errors.read_text(errors="replace")

    @property
    def line(self) -> str:
        """The last line that tells why it ended."""
        return self.lines[-1] if self.lines else ""

    @property
    def lines(self) -> list[str]:
        """The lines that it has told on stderr, but empty ones."""
        return [line for line in self.errors.splitlines() if line.strip()]

    @property
    def age(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self.began

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self.process.is_alive()

    def send(self, number: int):
        """Send it a signal, if it has not ended."""
        pid = self.process.pid
        if pid is not None and self.alive:
            os.kill(pid, number)

    def kill(self):
        """End it by SIGKILL."""
        self.send(signal.SIGKILL)
        self.process.join()

    def wait(self, seconds: float = _LONGEST) -> int | None:
        """Its exit code; after so many seconds it is killed, and there is none."""
        self.process.join(seconds)
        if self.alive:
            self.kill()
            return None
        return self.process.exitcode

    def until(self, condition: Callable[[], bool], seconds: float = _LONGEST) -> bool:
        """Wait for something while it works; whether that came."""
        until = time.monotonic() + seconds
        while not condition():
            if not self.alive or time.monotonic() > until:
                return False
            time.sleep(0.001)
        return True

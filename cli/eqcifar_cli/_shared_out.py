"""A command that takes many runs, shared out among processes."""

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import typer
from rich.console import Console

from eqcifar.errors import UsageError
from eqcifar.options import Options, option
from eqcifar.sweeps import STOP_AT_EOF, Slot

from ._output import say
from ._stop import StopRequest, exit_code

_LOOK_SECONDS = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sharing(Options):
    """How many runs are shared out."""

    panel = "Many runs"

    jobs: int = option(
        1, "Of a folder of runs, so many at a time, each on a GPU if any.", at_least=1
    )
    shard: str | None = option(
        None,
        "Of a folder of runs, only part I of N, from 1/N to N/N: one for each job of "
        "any scheduler.",
        metavar="I/N",
    )

    def shards(self, count: int) -> list[str]:
        """So many parts of the runs, or of the part of them that is asked for."""
        part, parts = map(int, (self.shard or "1/1").split("/"))
        return [f"{part + parts * at}/{parts * count}" for at in range(count)]

    def check_one(self):
        """Refuse what is for many runs.

        **Raises:**

        `UsageError` with what to leave out.
        """
        if self.jobs > 1 or self.shard is not None:
            raise UsageError("--jobs and --shard are for a folder of runs: name one")


def run_parts(
    words: Sequence[str],
    shards: Sequence[str],
    slots: Sequence[Slot],
    screen: Console,
) -> tuple[list[Any], int]:
    """Run a command with `--json` in some processes, each with its `--shard`.

    **Arguments:**

    - `words`: of the command, after `eqcifar`.
    - `shards`, `slots`: of each of them, and where it runs.
    - `screen`: takes what they say meanwhile.

    **Returns:**

    What they print, lists of JSON, as one list; and the largest exit code.
    """
    with StopRequest() as stop:
        parts = [
            _Part([*words, "--json", "--shard", shard], slot, screen)
            for shard, slot in zip(shards, slots, strict=True)
        ]
        stop.listen()
        told = False
        while any(part.process.poll() is None for part in parts):
            if stop() and not told:
                told = True
                for part in parts:
                    part.process.send_signal(signal.SIGTERM)
            time.sleep(_LOOK_SECONDS)
        printed = [part.printed() for part in parts]
    if stop.number is not None:
        raise typer.Exit(exit_code(stop.number))
    codes = [abs(part.process.returncode) for part in parts]
    return [each for found in printed for each in found], max(codes)


class _Part:
    """One of the processes; it ends when this one does."""

    def __init__(self, words: Sequence[str], slot: Slot, screen: Console):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "eqcifar_cli", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **slot.env, STOP_AT_EOF: "1"},
            start_new_session=True,
        )
        self._json, self._screen = "", screen
        self._threads = [
            threading.Thread(target=read, daemon=True)
            for read in (self._keep, self._show)
        ]
        for thread in self._threads:
            thread.start()

    def _keep(self):
        self._json = (self.process.stdout or io.BytesIO()).read().decode()

    def _show(self):
        for line in self.process.stderr or ():
            if text := line.decode(errors="replace").rstrip():
                say(text, self._screen)

    def printed(self) -> list[Any]:
        for thread in self._threads:
            thread.join()
        # Closes its pipes.
        with self.process:
            pass
        return json.loads(self._json) if self._json else []

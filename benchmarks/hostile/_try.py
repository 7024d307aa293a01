"""Reads a file under watch: what ended how, in what time and memory."""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from eqcifar.errors import EqcifarError

# What no reader of a file does, as Python's audit hooks call it.
_HARM = (
    *("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "os.fork"),
    *("subprocess.Popen", "socket.connect", "socket.getaddrinfo"),
)
_STATUS, _PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclasses.dataclass
class Fault:
    """A kind of file, and what came of reading many of it.

    - `tries`: how many were read.
    - `lost`: of those, how many ended in a traceback, ran code, or opened a connection.
    - `wrong`: how many were taken for something that they are not, without a word.
    - `refused`: how many ended in one clear line.
    - `seconds`: the most that one took.
    - `memory`: the most that one took beyond what was in use and the file's size, MiB.
    - `line`: the last line shown.
    """

    fault: str
    tries: int = 0
    lost: int = 0
    wrong: int = 0
    refused: int = 0
    seconds: float = 0.0
    memory: float = 0.0
    line: str = ""
    problems: list[str] = dataclasses.field(default_factory=list, repr=False)

    def read(
        self,
        reader: Callable[[], Any],
        size: int = 0,
        is_right: Callable[[Any], bool] = lambda found: True,
        what: str = "",
    ):
        """Call a reader under watch.

        **Arguments:**

        - `reader`: returns what it found, or raises an `EqcifarError`.
        - `size`: of the file, in bytes.
        - `is_right`: says of what was found whether it may be.
        - `what`: a name of this try, for `problems`.
        """
        self.tries += 1
        with watching() as harm:
            before, began = _memory("VmRSS"), time.perf_counter()
            _forget_peak()
            problem, found, error = "", None, None
            try:
                found = reader()
            except EqcifarError as raised:
                error = raised
            except BaseException as raised:
                if isinstance(raised, KeyboardInterrupt):
                    raise
                problem = f"{type(raised).__name__}: {raised}"
            self.seconds = max(self.seconds, time.perf_counter() - began)
            beyond = (_memory("VmHWM") - before - size) / 2**20
        self.memory = max(self.memory, beyond)
        if error is not None:
            self.refused += 1
            # As `eqcifar_cli._program` shows it.
            self.line = " ".join(str(error).split())
        elif not problem and not is_right(found):
            self.wrong += 1
            self.problems.append(f"{what}: taken for right: {found!r:.300}")
        if harm:
            problem = f"{problem} {', '.join(harm)}".strip()
        if problem:
            self.lost += 1
            self.problems.append(f"{what}: {problem:.300}")


@contextlib.contextmanager
def trying(fault: str) -> Iterator[Fault]:
    """A fault to fill, which says at its end what went wrong."""
    found = Fault(fault)
    yield found
    for problem in found.problems:
        print(f"{fault}: {problem}", file=sys.stderr, flush=True)


_watched: list[list[str]] = []


def _audit(event: str, arguments: Any):
    if _watched and event in _HARM:
        _watched[-1].append(event)


sys.addaudithook(_audit)


@contextlib.contextmanager
def watching() -> Iterator[list[str]]:
    """What harm is done meanwhile, by the names of Python's audit events."""
    found: list[str] = []
    _watched.append(found)
    try:
        yield found
    finally:
        _watched.pop()


def _memory(name: str) -> int:
    if not _STATUS.exists():
        return 0
    with _STATUS.open() as file:
        return next(
            1024 * int(line.split()[1]) for line in file if line.startswith(name)
        )


def _forget_peak():
    with contextlib.suppress(OSError):
        _PEAK.write_text("5")

"""Signals that ask to stop, at each phase of a run, and what becomes of it."""

import multiprocessing
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random

from eqcifar.storage import find_runs

from ._content import content, differing
from ._inside import announcing, compiling_anew
from ._outcomes import Attempt, Outcome
from ._subjects import Subject
from ._workers import Worker

NUMBERS = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGHUP,
)
_CODES: dict[int, int] = {signal.SIGINT: 130}
_START_AGAIN = 75


def stopped(subject: Subject, phase: str) -> Attempt:
    """Send each signal in turn to one run that goes on each time, within a phase."""

    def attempt(place: Path, tries: int, rng: Random) -> Iterator[list[Outcome]]:
        expected, _, _ = subject.alone(place)
        for first in range(0, tries, len(NUMBERS)):
            out = place / f"stopped{first}"
            outcomes = [
                _stop(subject, place, out, phase, number, rng)
                for number in NUMBERS[: tries - first]
            ]
            last = subject.start(place / "last", out)
            if last.wait() != 0:
                outcomes[-1].lost = last.line
            else:
                outcomes[-1].wrong = differing(content(out), expected)
            yield outcomes

    return attempt


def _stop(subject, place, out, phase, number, rng) -> Outcome:
    here, there = multiprocessing.Pipe()
    prepare = partial(announcing, phase, there)
    if phase == "compilation":
        prepare = partial(compiling_anew, phase, there)
    worker = subject.start(place / "output", out, prepare=prepare)
    there.close()
    with here:
        # Not always the first time that it is there.
        for _ in range(rng.randint(1, 2 if phase in _ONCE else 5)):
            if not worker.until(here.poll):
                return Outcome(lost=f"no {phase}: {worker.line}")
            here.recv()
            if phase in _ONCE:
                break
        time.sleep(rng.uniform(0, 0.02))
        worker.send(number)
        began = time.monotonic()
        code = worker.wait()
        seconds = time.monotonic() - began
    return judged(out, number, code, seconds, worker)


_ONCE = "decoding", "compilation"


def judged(out: Path, number: int, code: int | None, seconds: float, worker: Worker):
    """What came of a signal: the exit code and the state have to say so."""
    found = Outcome(seconds=seconds, line=worker.line)
    if code != _CODES.get(number, _START_AGAIN):
        name = signal.Signals(number).name
        found.lost = f"{name}: exit code {code}: {worker.line}"
    elif "Traceback" in worker.errors:
        found.lost = f"a traceback: {worker.line}"
    elif out.exists():
        states = {run.state() for run in find_runs(out)}
        if not states <= {"interrupted"}:
            found.lost = f"state {states}"
    return found


def stopped_early(command: list[object]) -> Attempt:
    """Send signals while the program is imported: nothing has begun."""

    def attempt(place: Path, tries: int, rng: Random) -> Iterator[list[Outcome]]:
        words = [sys.executable, "-m", "eqcifar_cli", *map(str, command)]
        for k in range(tries):
            number = NUMBERS[k % len(NUMBERS)]
            out = place / f"out{k}"
            process = subprocess.Popen(
                [*words, "--out", str(out)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            time.sleep(rng.uniform(0, 4))
            process.send_signal(number)
            began = time.monotonic()
            _, errors = process.communicate(timeout=120)
            seconds = time.monotonic() - began
            expected = _CODES.get(number, _START_AGAIN), -number
            lines = errors.strip().splitlines()
            found = Outcome(seconds=seconds, line=lines[-1] if lines else "")
            if process.returncode not in expected:
                found.lost = f"{number.name}: exit code {process.returncode}"
            elif "Traceback" in errors:
                found.lost = f"{number.name}: a traceback: {found.line}"
            yield [found]

    return attempt


def stopped_twice(subject: Subject) -> Attempt:
    """A second Ctrl-C, before the first is done with."""

    def attempt(place: Path, tries: int, rng: Random) -> Iterator[list[Outcome]]:
        for k in range(tries):
            here, there = multiprocessing.Pipe()
            prepare = partial(compiling_anew, "compilation", there)
            worker = subject.start(place / "output", place / f"out{k}", prepare=prepare)
            there.close()
            worker.until(here.poll)
            worker.send(signal.SIGINT)
            worker.until(lambda worker=worker: "once more" in worker.errors)
            time.sleep(rng.uniform(0, 0.2))
            worker.send(signal.SIGINT)
            began = time.monotonic()
            code = worker.wait()
            seconds = time.monotonic() - began
            here.close()
            found = Outcome(seconds=seconds, line=worker.line)
            if code != _CODES[signal.SIGINT]:
                found.lost = f"exit code {code}: {worker.line}"
            yield [found]

    return attempt

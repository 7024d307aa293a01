"""Several processes that share a run, of which one is lost, stopped or deceived."""

import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from eqcifar.storage import find_runs

from ._content import rows
from ._inside import other_images
from ._mounts import mount, unmount
from ._outcomes import Attempt, Outcome
from ._subjects import logged, train
from ._workers import Worker

EPOCHS = 400
_TOLERANCE = 1e-3
# Compiled anew by each process, see `eqcifar_cli._jax`: small, and not optimised.
_SMALL = "--arch", "mlp", "--width", 0.02
_LONGEST = 60.0


def start(
    place: Path,
    out: Path,
    processes: int,
    devices: int,
    *options: object,
    epochs: int = EPOCHS,
    each: Callable[[int], dict[str, Any]] = lambda number: {},
    words: Callable[[int], Sequence[object]] = lambda number: (),
) -> list[Worker]:
    """Processes of so many devices each that train one run."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    workers = []
    for number in range(processes):
        command = train(out, *options, *words(number), epochs=epochs)
        if processes > 1:
            command += ["--coordinator", address, "--processes", processes]
            command += ["--process-id", number]
        workers.append(
            Worker(
                place / f"process{number}",
                *command,
                jax={
                    "jax_num_cpu_devices": devices,
                    "jax_disable_most_optimizations": True,
                },
                **each(number),
            )
        )
    return workers


def finish(workers: Sequence[Worker]) -> str:
    """Wait until all have ended; what went wrong, or nothing."""
    codes = [worker.wait() for worker in workers]
    said = [w.line for w, code in zip(workers, codes, strict=True) if code != 0]
    return f"exit codes {codes}: {said[0]}" if said else ""


def numbers_alike(out: Path, expected: Path) -> str:
    """What is further apart than rounding, or nothing."""
    for name in ("last.safetensors", "model.safetensors"):
        (a,), (b,) = out.rglob(name), expected.rglob(name)
        here, there = load_file(a), load_file(b)
        if here.keys() != there.keys():
            return f"{name} has other arrays"
        for key, array in here.items():
            if array.dtype.kind != "f":
                if not np.array_equal(array, there[key]):
                    return f"{key} of {name}"
                continue
            scale = max(float(np.abs(there[key]).max(initial=0)), 1e-3)
            if np.abs(array - there[key]).max(initial=0) > _TOLERANCE * scale:
                return f"{key} of {name}"
    return ""


def the_same_numbers(processes: int, devices: int) -> Attempt:
    """Train with so many, and in one process; only process 0 may write."""

    def attempt(place: Path, tries: int, rng: Random) -> Iterator[list[Outcome]]:
        for k in range(tries):
            seed = "--seed", rng.randrange(2**31)
            one, many = place / f"one{k}", place / f"many{k}"
            problem = finish(start(place / "a", one, 1, 4, *seed, epochs=3))
            many_workers = start(place / "b", many, processes, devices, *seed, epochs=3)
            problem = problem or finish(many_workers)
            found = Outcome(lost=problem)
            if not problem:
                names = [
                    {p.relative_to(out) for p in out.rglob("*")} for out in (one, many)
                ]
                found.wrong = numbers_alike(many, one)
                if names[0] != names[1]:
                    found.wrong = f"other files: {names[0] ^ names[1]}"
            yield [found]

    return attempt


def one_of(
    disturb: Callable[[Sequence[Worker], Random], Worker | None],
    code: int = 75,
    *,
    told: bool = True,
) -> Attempt:
    """Do something to one of several processes; the others have to end with a line.

    Then the run goes on in one process of two devices.
    """

    def attempt(place: Path, tries: int, rng: Random) -> Iterator[list[Outcome]]:
        for k in range(tries):
            out = place / f"out{k}"
            workers = start(
                place / f"w{k}", out, *rng.choice([(2, 2), (4, 1)]), *_SMALL
            )
            until = rng.randint(1, 3)
            if workers[0].until(lambda out=out, until=until: logged(out) >= until):
                time.sleep(rng.uniform(0, 0.2))
                found = _ends(workers, disturb(workers, rng), code, told)
            else:
                found = Outcome(lost=f"did not train: {workers[0].line}")
            for worker in workers:
                worker.kill()
            if found.holds:
                go_on(place / f"w{k}", out, found, *_SMALL)
            yield [found]
            shutil.rmtree(out, ignore_errors=True)

    return attempt


def _ends(
    workers: Sequence[Worker], victim: Worker | None, code: int, told: bool
) -> Outcome:
    began = time.monotonic()
    rest = [worker for worker in workers if worker is not victim]
    ends = [worker.wait(_LONGEST) for worker in rest]
    lines = [worker.line for worker in rest if worker.line]
    found = Outcome(seconds=time.monotonic() - began, line=lines[0] if lines else "")
    for worker, end in zip(rest, ends, strict=True):
        if end != code:
            found.lost = f"exit code {end}: {worker.line}"
        elif "Traceback" in worker.errors or (told and not worker.line):
            found.lost = f"no line, but {worker.errors[-300:]!r}"
    return found


def go_on(place: Path, out: Path, found: Outcome, *options: object):
    """Have one process of two devices go on, for some epochs."""
    [run] = find_runs(out)
    before = rows(run.path / "log.tsv")
    [worker] = start(place / "again", out, 1, 2, *options)
    worker.until(lambda: logged(out) > len(before) + 3)
    worker.send(signal.SIGTERM)
    if worker.wait() not in (0, 75):
        found.lost = f"it does not go on: {worker.line}"
        return
    after = rows(run.path / "log.tsv")
    if [row["epoch"] for row in after] != [str(1 + k) for k in range(len(after))]:
        found.wrong = "epochs are missing from the log"
    # At most some epochs were not saved; what was, has the same row.
    saved = int(worker.output.partition("after step ")[2].partition(":")[0] or 0) // 2
    if after[:saved] != before[:saved]:
        found.wrong = "rows that were saved are others"


def full_disk(place: Path, tries: int, rng: Random) -> Iterator[list[Outcome]]:
    """Fill the disk of process 0, and go on when there is room."""
    for k in range(tries):
        out = place / f"out{k}"
        out.mkdir()
        mount(out, f"size={rng.randrange(150, 400)}k")
        try:
            many = rng.choice([(2, 2), (4, 1)])
            keep = *_SMALL, "--keep-every", 1
            workers = start(place / f"w{k}", out, *many, *keep)
            workers[0].until(lambda out=out: any(out.rglob("epoch0001*")))
            found = _ends(workers, None, 1, True)
            mount(out, "remount,size=20m")
            if found.holds:
                go_on(place / f"w{k}", out, found, *_SMALL)
        finally:
            unmount(out)
        yield [found]


def send(number: int, workers: Sequence[Worker], rng: Random) -> Worker:
    """A signal to one of them."""
    victim = rng.choice(workers)
    victim.send(number)
    return victim


def preempt(workers: Sequence[Worker], rng: Random) -> None:
    """SIGTERM to one, which stops all."""
    rng.choice(workers).send(signal.SIGTERM)


def refused(
    words: Callable[[int], Sequence[object]] = lambda number: (),
    each: Callable[[int], dict[str, Any]] = lambda number: {},
) -> Attempt:
    """Start processes that differ: all of them have to refuse, before they train."""

    def attempt(place: Path, tries: int, rng: Random) -> Iterator[list[Outcome]]:
        for k in range(tries):
            out = place / f"out{k}"
            processes, devices = rng.choice([(2, 2), (4, 1)])
            workers = start(
                *(place / f"w{k}", out, processes, devices, *_SMALL),
                words=words,
                each=each,
            )
            began = time.monotonic()
            ends = [worker.wait() for worker in workers]
            seconds = time.monotonic() - began
            found = Outcome(seconds=seconds, line=workers[0].line)
            if set(ends) != {2} or logged(out):
                found.lost = f"exit codes {ends}: {workers[0].line}"
            yield [found]

    return attempt


def other_options(number: int) -> Sequence[object]:
    """For the last of the processes, another regularisation."""
    return () if number == 0 else ("--weight-decay", 0.01)


def others_images(number: int) -> dict[str, Any]:
    """All but process 0 find a pixel changed."""
    return {"prepare": other_images} if number else {}


KILLED, STALLED = partial(send, signal.SIGKILL), partial(send, signal.SIGSTOP)

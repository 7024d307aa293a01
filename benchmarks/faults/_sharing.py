"""Processes that meet in one folder or cache, and caches that are of no use."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random

from eqcifar.storage import find_runs

from ._content import content, differing, rows
from ._inside import save_often
from ._mounts import mount, unmount
from ._outcomes import Attempt, Outcome
from ._subjects import Subject, sweep, train
from ._workers import Worker

_EPOCHS = 3


def many_on_one_run(processes: int) -> Attempt:
    """Start so many at once on one run: one trains, the others are told."""

    def attempt(place: Path, tries: int, rng: Random) -> Iterator[list[Outcome]]:
        alone = Subject(lambda out: train(out, epochs=_EPOCHS))
        expected, _, _ = alone.alone(place)
        for k in range(tries):
            out = place / f"out{k}"
            workers = [alone.start(place / f"w{k}-{i}", out) for i in range(processes)]
            codes = [worker.wait() for worker in workers]
            # Who comes late finds it done.
            told = [w for w, code in zip(workers, codes, strict=True) if code == 2]
            found = Outcome(line=told[0].line if told else "")
            if not set(codes) <= {0, 2} or 0 not in codes:
                found.lost = f"exit codes {codes}"
            elif sum("Training: " in worker.output for worker in workers) != 1:
                found.wrong = "trained twice"
            elif any("in use" not in worker.line for worker in told):
                found.lost = f"no line: {told[0].line}"
            found.wrong = found.wrong or differing(content(out), expected)
            yield [found]

    return attempt


def many_on_one_cache(processes: int) -> Attempt:
    """Start so many at once with nothing compiled or decoded yet: all train alike."""

    def attempt(place: Path, tries: int, rng: Random) -> Iterator[list[Outcome]]:
        alone = Subject(lambda out: train(out, epochs=_EPOCHS))
        expected, _, _ = alone.alone(place)
        for k in range(tries):
            env = {"EQCIFAR_CACHE": str(place / f"cache{k}")}
            options = {"jax_compilation_cache_dir": str(place / f"compiled{k}")}
            outs = [place / f"out{k}-{i}" for i in range(processes)]
            workers = [
                alone.start(out.with_suffix(".output"), out, env=env, jax=options)
                for out in outs
            ]
            codes = [worker.wait() for worker in workers]
            found = Outcome()
            if set(codes) != {0}:
                found.lost = f"exit codes {codes}: {workers[0].line}"
            else:
                found.wrong = next(
                    filter(None, (differing(content(o), expected) for o in outs)), ""
                )
            yield [found]

    return attempt


def two_sweeps(place: Path, tries: int, rng: Random) -> Iterator[list[Outcome]]:
    """Start a sweep twice at once: each run is trained once."""
    subject = Subject(sweep)
    expected, _, _ = subject.alone(place)
    for k in range(tries):
        out = place / f"out{k}"
        workers = [subject.start(place / f"w{k}-{i}", out) for i in range(2)]
        codes = [worker.wait() for worker in workers]
        found = Outcome(line=workers[0].output.strip().splitlines()[-1])
        logs = [run.path / "run.log" for run in find_runs(out)]
        if set(codes) != {0}:
            found.lost = f"exit codes {codes}: {workers[0].line}"
        elif any(log.read_text().count("Training: ") != 1 for log in logs):
            found.wrong = "a run was trained twice"
        found.wrong = found.wrong or differing(content(out), expected)
        yield [found]


def read_while_written(*command: object) -> Attempt:
    """Have a command read a folder again and again while a run writes there."""

    def attempt(place: Path, tries: int, rng: Random) -> Iterator[list[Outcome]]:
        number = done = 0
        while done < tries:
            number += 1
            out = place / f"out{number}"
            writer = Worker(
                place / "writer", *train(out, epochs=200), prepare=save_often
            )
            writer.until(lambda out=out: any(out.rglob("log.tsv")))
            read = []
            while writer.alive and done + len(read) < tries:
                reader = Worker(place / "reader", command[0], out, *command[1:])
                code = reader.wait()
                found = Outcome(line=reader.line)
                if code != 0:
                    found.lost = f"exit code {code}: {reader.line}"
                read.append((found, reader.output))
            writer.wait()
            [run] = find_runs(out)
            done += len(read)
            for found, text in read:
                found.wrong = _no_such_number(text, run.path)
                yield [found]

    return attempt


def _no_such_number(text: str, run: Path) -> str:
    """What a table says of a run that its log never said."""
    if not text.startswith("{"):
        return ""
    said = {cell for row in rows(run / "log.tsv") for cell in row.values()}
    for row in json.loads(text)["rows"]:
        if row.get("mean") is not None and repr(row["mean"]) not in said:
            return f"{row['metric']} {row['mean']} stands in no row of the log"
    return ""


def with_a_cache(spoil: Callable[[Path], Callable[[], object]]) -> Attempt:
    """Train with caches that something is wrong with: it costs time and no more."""

    def attempt(place: Path, tries: int, rng: Random) -> Iterator[list[Outcome]]:
        subject = Subject(lambda out: train(out, epochs=_EPOCHS))
        expected, _, _ = subject.alone(place)
        for k in range(tries):
            cache, out = place / f"cache{k}", place / f"out{k}"
            cache.mkdir()
            mend = spoil(cache)
            try:
                worker = subject.start(
                    place / f"w{k}",
                    out,
                    env={"EQCIFAR_CACHE": str(cache)},
                    jax={"jax_compilation_cache_dir": str(cache / "jax")},
                )
                code = worker.wait()
            finally:
                mend()
            found = Outcome(line=worker.line)
            if code != 0:
                found.lost = f"exit code {code}: {worker.line}"
            elif len(worker.errors.splitlines()) > 2:
                found.lost = f"{len(worker.errors.splitlines())} lines: {worker.line}"
            else:
                found.wrong = differing(content(out), expected)
            yield [found]

    return attempt


def full(cache: Path) -> Callable[[], object]:
    """A cache on a disk of 64 KB."""
    mount(cache, "size=64k")
    return partial(unmount, cache)


def read_only(cache: Path) -> Callable[[], object]:
    """A cache that nobody can write."""
    mount(cache, "ro")
    return partial(unmount, cache)


def of_another_version(cache: Path) -> Callable[[], object]:
    """A cache of files that mean nothing to this version."""
    compiled = cache / "jax"
    compiled.mkdir()
    for k in range(20):
        (compiled / f"jit_step-{k:064x}-cache").write_bytes(b"another version")
        (compiled / f"jit_step-{k:064x}-atime").write_bytes(bytes(8))
    (cache / "synthetic.npz").write_bytes(b"another version")
    return lambda: None


def deleted(place: Path, tries: int, rng: Random) -> Iterator[list[Outcome]]:
    """Delete the caches while the run trains."""
    subject = Subject(lambda out: train(out, epochs=30))
    expected, seconds, _ = subject.alone(place)
    for k in range(tries):
        cache, out = place / f"cache{k}", place / f"out{k}"
        worker = subject.start(
            place / f"w{k}",
            out,
            env={"EQCIFAR_CACHE": str(cache)},
            jax={"jax_compilation_cache_dir": str(cache / "jax")},
        )
        time.sleep(rng.uniform(0, seconds))
        shutil.rmtree(cache, ignore_errors=True)
        code = worker.wait()
        found = Outcome(line=worker.line)
        if code != 0:
            found.lost = f"exit code {code}: {worker.line}"
        else:
            found.wrong = differing(content(out), expected)
        yield [found]

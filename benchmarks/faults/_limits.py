"""Disks and memories that are too small."""

import resource
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random

from ._content import content, differing
from ._mounts import mount, unmount
from ._outcomes import Attempt, Outcome
from ._subjects import DATA, Subject, train
from ._workers import Worker


def full_disk(place: Path, tries: int, rng: Random) -> Iterator[list[Outcome]]:
    """Train on a disk that fills up at a random byte, then on one with room."""
    subject = Subject(lambda out: train(out, "--keep-every", 1, epochs=10))
    expected, _, _ = subject.alone(place)
    for k in range(tries):
        out = place / f"out{k}"
        out.mkdir()
        size = rng.randrange(8, 300)
        mount(out, f"size={size}k")
        try:
            worker = subject.start(place / f"w{k}", out)
            code = worker.wait()
            found = Outcome(line=worker.line)
            if code != 1 or len(worker.lines) != 1:
                found.lost = f"{size} KB: exit code {code}: {worker.errors[-200:]}"
            mount(out, "remount,size=10m")
            again = subject.start(place / f"w{k}", out)
            if again.wait() != 0:
                found.lost = f"it does not go on: {again.line}"
            else:
                found.wrong = differing(content(out), expected)
        finally:
            unmount(out)
        yield [found]


def little_memory(*options: object) -> Attempt:
    """Ask for more than the host's memory allows."""

    def attempt(place: Path, tries: int, rng: Random) -> Iterator[list[Outcome]]:
        for k in range(tries):
            room = rng.uniform(0.1, 1.0)
            command = ["train", *DATA[:2], *options, "--out", place / f"out{k}"]
            prepare = partial(limit_memory, room)
            worker = Worker(place / f"w{k}", *command, prepare=prepare)
            code = worker.wait()
            found = Outcome(seconds=worker.age, line=worker.line)
            told = len(worker.lines) == 1 and "lower" in found.line
            if code not in (1, 2) or not told:
                found.lost = f"{room:.2f} GB: exit code {code}: {worker.errors[-300:]}"
            yield [found]

    return attempt


def limit_memory(gigabytes: float):
    """Take no more than so much beside what this process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    bytes_ = pages * resource.getpagesize() + int(gigabytes * 1e9)
    resource.setrlimit(resource.RLIMIT_AS, (bytes_, bytes_))

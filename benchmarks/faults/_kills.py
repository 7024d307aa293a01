"""SIGKILL at random moments, again and again, and a look at what is left."""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from ._content import content, differing
from ._outcomes import Attempt, Outcome
from ._subjects import Subject, logged
from ._workers import Worker

# So many kills meet a run before it may end.
_CHAIN = 6


def killed(
    subject: Subject, prepare: Callable[[], None] | None = None, *, epochs: int = 0
) -> Attempt:
    """Kill it until it has been killed often enough, and compare each time it ends.

    With `epochs`, the kills are spread over them, and one of five meets the start.
    """

    def attempt(place: Path, tries: int, rng: Random) -> Iterator[list[Outcome]]:
        expected, seconds, first = subject.alone(place, prepare=prepare)
        chain = done = 0
        while done < tries:
            chain += 1
            out = subject.fresh(place, f"killed{chain}")
            kills = min(_CHAIN, tries - done)
            outcomes = _chain(
                subject, place, out, prepare, rng, kills, epochs, seconds, first
            )
            outcomes[-1].wrong = differing(content(out), expected)
            if outcomes[-1].lost:
                outcomes[-1].wrong = ""
            shutil.rmtree(out)
            done += len(outcomes)
            yield outcomes

    return attempt


def _chain(subject, place, out, prepare, rng, kills, epochs, seconds, first):
    outcomes: list[Outcome] = []
    marks = sorted(rng.choices(range(max(epochs - 2, 1)), k=kills))
    while True:
        worker = subject.start(place / "output", out, prepare=prepare)
        if len(outcomes) == kills:
            code = worker.wait()
        else:
            _wait(worker, out, rng, epochs, seconds, first, marks[len(outcomes)])
            worker.kill()
            code = worker.process.exitcode
        if code == 0 and outcomes:
            return outcomes
        if code == -9 and len(outcomes) < kills:
            outcomes.append(Outcome(within=any(out.rglob(".tmp-*"))))
            continue
        if code == 0:
            # It was quicker than the moment of its first kill.
            shutil.rmtree(out)
            out = subject.fresh(place, out.name)
            continue
        outcomes[-1].lost = f"exit code {code}: {worker.line}"
        outcomes[-1].line = worker.line
        return outcomes


def _wait(worker: Worker, out: Path, rng, epochs, seconds, first, mark):
    if epochs and rng.random() < 0.8:
        # The row of an epoch stands before its checkpoint.
        worker.until(lambda: logged(out) >= mark)
        moment = time.monotonic() + rng.uniform(0, 2 * (seconds - first) / epochs)
    else:
        moment = worker.began + rng.uniform(0, first if epochs else seconds)
    worker.until(lambda: time.monotonic() > moment)

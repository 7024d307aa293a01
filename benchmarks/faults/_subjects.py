"""What is disturbed: commands that are small enough to be disturbed many times."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ._content import content
from ._inside import train_by_script
from ._workers import Worker

EPOCHS = 60
DATA = "--dataset", "synthetic", "--limit-train", 40, "--limit-test", 20
TINY = (
    *DATA,
    *("--arch", "resnet8", "--width", 0.25, "--batch-size", 20, "--lr", 0.1),
)


def train(out: Path, *options: object, epochs: int = EPOCHS) -> list[object]:
    """The command that trains there."""
    return ["train", *TINY, "--epochs", epochs, *options, "--out", out]


@dataclasses.dataclass(frozen=True)
class Subject:
    """A command that goes on where it was.

    - `command`: its arguments, for a folder of results.
    - `work`: what takes them in place of `eqcifar`.
    - `before`: makes what the folder holds at first.
    """

    command: Callable[[Path], list[Any]]
    work: Callable[..., None] | None = None
    before: Callable[[Path], None] | None = None

    def start(self, place: Path, out: Path, **how: Any) -> Worker:
        """Start it, or have it go on."""
        return Worker(place, *self.command(out), work=self.work, **how)

    def fresh(self, place: Path, name: str) -> Path:
        """A folder as it is at first."""
        out = place / name
        if self.before is not None:
            made = place / "made"
            if not made.exists():
                self.before(made)
            shutil.copytree(made, out)
        return out

    def alone(self, place: Path, **how: Any) -> tuple[dict[str, object], float, float]:
        """What an undisturbed one leaves, the seconds that it took, and to start.

        It is done twice: the first compiles.
        """
        for name in ("first", "alone"):
            out = self.fresh(place, name)
            worker = self.start(place / f"{name}-output", out, **how)
            worker.until(lambda out=out: logged(out) > 0)
            first = worker.age
            if worker.wait() != 0:
                raise SystemExit(f"undisturbed, it failed: {worker.errors}")
            seconds = worker.age
        return content(place / "alone"), seconds, first


def logged(out: Path) -> int:
    """How many epochs are in the log of the one run there."""
    for path in out.glob("**/log.tsv"):
        return max(path.read_bytes().count(b"\n") - 1, 0)
    return 0


def trained(out: Path):
    """A folder with a trained network in it, for what measures one."""
    worker = Worker(out.with_name("training"), *train(out, epochs=2))
    if worker.wait() != 0:
        raise SystemExit(f"training failed: {worker.errors}")


def script(own: bool = False, keep_every: int = 0, **fields: Any) -> Subject:
    """A script that trains by such a configuration."""
    fields = {"epochs": EPOCHS, **fields}
    return Subject(lambda out: [out, fields, own, keep_every], work=train_by_script)


RUNS = {
    "eqcifar train": Subject(train),
    "plain": script(),
    "EMA": script(ema=0.9),
    "SAM": script(sam=0.05),
    # It is for convolutions.
    "Muon": Subject(lambda out: train(out, "--optimiser", "muon", "--muon-lr", 0.02)),
    "AdamW": script(optimiser="adamw", lr=0.001),
    "own optimiser": script(own=True),
    "kept networks": script(keep_every=1),
}


def sweep(out: Path) -> list[object]:
    """The command of a sweep of two short runs."""
    return ["sweep", *train(out, epochs=3)[1:], "--seeds", "0-1", "--jobs", 1]


MEASUREMENTS = {
    "sharpness": Subject(
        lambda out: [
            *("sharpness", "--out", out, "--split", "train,test", "--samples", 0),
            *("--measures", "trace,ntk,top"),
        ],
        before=trained,
    ),
    "sweep": Subject(sweep),
    "compare": Subject(lambda out: ["compare", "--out", out], before=trained),
}
measured_meanwhile = Subject(
    lambda out: train(out, "--sharpness-every", 5, "--sharpness-samples", 20)
)

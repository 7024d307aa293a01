"""Programs to compare, each in a process of its own; one computes at a time."""

import dataclasses
import math
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from eqcifar.config import TrainConfig

OURS = "eqcifar"


@dataclasses.dataclass(frozen=True)
class Case:
    """A network to train and to evaluate on images of random pixels.

    - `images`: in the training set; `evaluated`: in the split that is measured.
    - `steps`: in one call, where the trainer takes more than one.
    """

    arch: str
    batch: int = 128
    precision: str = "f32"
    images: int = 1024
    evaluated: int = 1000
    steps: int = 1

    def config(self, **changes: Any) -> TrainConfig:
        """The original's recipe, augmentation included."""
        options = {"batch_size": self.batch, "precision": self.precision, **changes}
        return TrainConfig(arch=self.arch, loss="ce", **options)

    def check_config(self) -> TrainConfig:
        """A recipe whose first step tells the gradient: the same without chance."""
        return self.config(augment=False, warmup=0.0, lr=0.1)

    def pixels(self) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels."""
        rng = np.random.default_rng(0)
        count = max(self.images, self.evaluated)
        images = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
        return images, rng.integers(0, 10, count, np.int32)


class Side:
    """One side of a comparison; calls of its methods wait for the answers.

    **Arguments:**

    - `name`: `eqcifar`, or a form of the peer's, see `TorchSubject`.
    - `case`: what it is to compute.
    - `python`: the Python that has what it needs.
    - `prelude`: code that its process runs first.
    """

    def __init__(self, name: str, case: Case, python: str = "", prelude: str = ""):
        self.name, self.case = name, case
        self.calls: dict[str, int] = {}
        root = Path(__file__).parent.parent
        self._process = subprocess.Popen(
            [python or sys.executable, "-m", "benchmarks.sides"],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._send((name, dataclasses.asdict(case), prelude))

    def call(self, method: str, *arguments: Any) -> Any:
        """What the side's method returns."""
        self._send((method, *arguments))
        assert self._process.stdout is not None
        return pickle.load(self._process.stdout)

    def warm_up(self, kind: str, seconds: float):
        """Find out how many calls fill a turn, after one."""
        self.call(kind, 1)
        self.calls[kind] = math.ceil(seconds / self.call(kind, 1))

    def rate(self, kind: str) -> float:
        """Images a second in one turn."""
        # Another's threads may still be waiting for work.
        time.sleep(0.3)
        case, calls = self.case, self.calls[kind]
        images = case.batch * case.steps if kind == "train" else case.evaluated
        return images * calls / self.call(kind, calls)

    def stop(self):
        """End the process."""
        self._send(None)
        self._process.wait()

    def _send(self, what: Any):
        assert self._process.stdin is not None
        pickle.dump(what, self._process.stdin)
        self._process.stdin.flush()


def serve():
    """Answer calls until there are no more."""
    answers, sys.stdout = sys.stdout.buffer, sys.stderr
    name, case, prelude = pickle.load(sys.stdin.buffer)
    exec(prelude, {})
    if name == OURS:
        from benchmarks.subject import Subject as Made
    else:
        from benchmarks.peers.torch_speed import TorchSubject as Made
    side = Made(Case(**case), name)
    while call := pickle.load(sys.stdin.buffer):
        method, *arguments = call
        pickle.dump(getattr(side, method)(*arguments), answers)
        answers.flush()


if __name__ == "__main__":
    serve()

"""Programs to compare, each in a process of its own; one computes at a time."""

import dataclasses
import importlib
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


class Remote:
    """An object in a process of its own; calls of its methods wait for the answers.

    **Arguments:**

    - `made`: the class, as `module:name`, and its `arguments`.
    - `python`: the Python that has what it needs.
    - `prelude`: code that its process runs first.
    """

    def __init__(self, made: str, *arguments: Any, python: str = "", prelude: str = ""):
        root = Path(__file__).parent.parent
        self._process = subprocess.Popen(
            [python or sys.executable, "-m", "benchmarks.sides"],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._send((prelude, made, arguments))

    def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """What the method returns."""
        self._send((method, arguments, options))
        assert self._process.stdout is not None
        return pickle.load(self._process.stdout)

    def stop(self):
        """End the process."""
        self._send(None)
        self._process.wait()

    def _send(self, what: Any):
        assert self._process.stdin is not None
        pickle.dump(what, self._process.stdin)
        self._process.stdin.flush()


class Side:
    """One side of a comparison.

    **Arguments:**

    - `name`: `eqcifar`, or a form of the peer's, see `TorchSubject`.
    - `case`: what it is to compute.
    - `python`, `prelude`: see `Remote`.
    """

    def __init__(self, name: str, case: Case, python: str = "", prelude: str = ""):
        self.name, self.case = name, case
        self.calls: dict[str, int] = {}
        made = "benchmarks.peers.torch_speed:TorchSubject"
        if name == OURS:
            made = "benchmarks.subject:MeasuredNetwork"
        self._remote = Remote(made, case, name, python=python, prelude=prelude)
        self.call, self.stop = self._remote.call, self._remote.stop

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


def serve():
    """Answer calls until there are no more."""
    answers, sys.stdout = sys.stdout.buffer, sys.stderr
    prelude, made, arguments = pickle.load(sys.stdin.buffer)
    exec(prelude, {})
    module, _, name = made.partition(":")
    side = getattr(importlib.import_module(module), name)(*arguments)
    while call := pickle.load(sys.stdin.buffer):
        method, arguments, options = call
        pickle.dump(getattr(side, method)(*arguments, **options), answers)
        answers.flush()


if __name__ == "__main__":
    serve()

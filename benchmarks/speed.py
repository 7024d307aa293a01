"""What the benchmarks of speed share: the work to time, and how times are summed up."""

import dataclasses
import resource
import statistics
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from eqcifar.config import TrainConfig


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


class Convolution(NamedTuple):
    """The shape of a convolution of square images that keeps the size at stride 1."""

    in_channels: int
    out_channels: int
    size: int
    kernel: int
    stride: int

    def arrays(self, batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Images, channels last; weights, PyTorch's way; gradient of the result."""
        rng = np.random.default_rng(0)
        after = -(-self.size // self.stride)
        shapes = (
            (batch, self.size, self.size, self.in_channels),
            (self.out_channels, self.in_channels, self.kernel, self.kernel),
            (batch, after, after, self.out_channels),
        )
        images, weights, gradient = (
            rng.standard_normal(shape, np.float32) for shape in shapes
        )
        return images, weights, gradient


def spread(values: Sequence[float]) -> dict[str, Any]:
    """The median of measurements, their range and all of them."""
    return {
        "median": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "n": len(values),
        "values": list(values),
    }


def peak_memory() -> int:
    """The most bytes that this process has had in memory."""
    # Linux counts KiB, macOS bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

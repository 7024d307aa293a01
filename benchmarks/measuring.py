"""What the benchmarks of speed share: spreads, the machine's peak, the data to time."""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from eqcifar import data
from eqcifar.parallel import make_mesh
from eqcifar.training import LOSSES, TrainConfig, initialise, random_stream
from eqcifar.training._step import Epoch, epoch_order, make_steps


def spread(values: Sequence[float]) -> dict[str, Any]:
    """The median of measurements, their range and all of them."""
    return {
        "median": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "n": len(values),
        "values": list(values),
    }

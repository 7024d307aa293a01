"""Small data and networks that several tests share."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from eqcifar.data import Dataset, Split
from eqcifar.models import BatchNorm
from eqcifar.training import TrainState
from eqcifar.training._state import Totals


def small_dataset(train: int = 64, test: int = 20, classes: int = 4) -> Dataset:
    """Random 8x8 images whose mean colour tells the class."""
    rng = np.random.default_rng(0)
    palette = rng.integers(0, 150, size=(classes, 3))

    def split(n):
        labels = rng.integers(classes, size=n).astype(np.int32)
        noise = rng.integers(0, 100, size=(n, 8, 8, 3))
        colour = palette[labels][:, None, None, :]
        return Split((noise + colour).astype(np.uint8), labels)

    names = tuple(f"class {c}" for c in range(classes))
    return Dataset("small", names, split(train), split(test), None, False)


class SmallNet(eqx.Module):
    """Convolution, BatchNorm, ReLU, dropout, mean and a linear layer."""

    conv: eqx.nn.Conv2d
    norm: BatchNorm
    dropout: eqx.nn.Dropout
    linear: eqx.nn.Linear

    def __init__(self, classes: int = 4, *, dropout: float = 0.0, key):
        key1, key2 = jax.random.split(key)
        self.conv = eqx.nn.Conv2d(3, 6, 3, padding=1, use_bias=False, key=key1)
        self.norm = BatchNorm(6)
        self.dropout = eqx.nn.Dropout(dropout)
        self.linear = eqx.nn.Linear(6, classes, key=key2)

    def __call__(self, x, state, *, key=None):
        x, state = self.norm(self.conv(x), state)
        x = self.dropout(jax.nn.relu(x).mean((1, 2)), key=key)
        return self.linear(x), state


def small_net(seed: int = 0, **kwargs):
    """A `SmallNet` with its state."""
    return eqx.nn.make_with_state(SmallNet)(key=jax.random.key(seed), **kwargs)


def random_network(make, *args, seed: int = 0, **kwargs) -> TrainState:
    """What `make(..., key=...)` makes, with random numbers, compiling nothing.

    It is as if trained, but there is no optimiser to go on with.
    """
    rng = np.random.default_rng(seed)

    def draw(leaf):
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        # Of one axis are scales and variances, which have to be positive.
        positive = len(leaf.shape) == 1
        numbers = rng.uniform(
            0.5 if positive else -0.1, 1 if positive else 0.1, leaf.shape
        )
        return jnp.asarray(numbers, leaf.dtype)

    shapes = eqx.filter_eval_shape(make, *args, key=jax.random.key(0), **kwargs)
    model, state = jax.tree.map(draw, shapes)
    return TrainState(model, state, (), jnp.asarray(0, jnp.int32), Totals.zero())

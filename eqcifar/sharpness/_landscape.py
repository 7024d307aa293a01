"""The loss on lines and planes through the parameters."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from eqcifar.errors import UsageError
from eqcifar.losses import AnyLoss

from ._estimate import Target, estimate_mean
from ._examples import Examples
from ._network import Network
from ._pieces import piece, tell
from ._probe_traces import random_direction
from ._radius import _move, loss_at


@dataclasses.dataclass(frozen=True)
class Landscape:
    """Mean loss and accuracy over a grid; axis k belongs to direction k.

    Normalisation keeps the checkpoint's running statistics everywhere. `error` is the
    standard error of the loss from the draw of examples; that of points together, for
    all see the same ones.
    """

    steps: Float[np.ndarray, " points"]
    loss: Float[np.ndarray, "points ..."]
    error: Float[np.ndarray, "points ..."]
    accuracy: Float[np.ndarray, "points ..."]


def filter_normalised(network: Network, key: PRNGKeyArray) -> PyTree:
    """Draw a direction whose filters have the lengths of the network's filters.

    Vectors (biases, scales and shifts) do not move. Li et al. (2018).
    """
    draw = random_direction(key, network.params, "normal")

    def match(noise: Array, leaf: Array) -> Array:
        if leaf.size == max((1, *leaf.shape)):  # a vector, whatever its shape
            return jnp.zeros_like(leaf)
        axes = tuple(range(1, leaf.ndim))
        length, drawn = (
            jnp.sqrt(jnp.sum(x**2, axes, keepdims=True)) for x in (leaf, noise)
        )
        return noise * length / jnp.where(drawn > 0, drawn, 1)

    return jax.tree.map(match, draw, network.params)


def as_direction(network: Network, vector: Float[Array, " size"]) -> PyTree:
    """Turn a flat vector, such as an eigenvector, into a direction."""
    return ravel_pytree(network.params)[1](vector)


def landscape(
    network: Network,
    examples: Examples,
    directions: Sequence[PyTree],
    loss: AnyLoss,
    *,
    reach: float = 1.0,
    points: int = 21,
    target: Target = "split",
) -> Landscape:
    """Compute the mean loss and accuracy along one direction or over a plane.

    At theta + a d (+ b e) for a, b on `points` equal steps in [-reach, reach], in
    units of the directions; odd `points` include theta itself.
    """
    if len(directions) not in (1, 2):
        raise UsageError("a landscape takes one direction (a line) or two (a plane)")
    if points < 1 or not 0 < reach < np.inf:
        raise UsageError("a landscape takes a positive reach and at least one point")
    steps = np.linspace(-reach, reach, points)
    values = np.zeros((3, *(points,) * len(directions)))

    def find(at: tuple[int, ...]) -> dict[str, float]:
        params = network.params
        for index, direction in zip(at, directions, strict=True):
            params = _move(params, direction, jnp.asarray(steps[index]))
        rows = loss_at(network, examples, loss, params)
        mean = estimate_mean(
            rows["loss"][:, None],
            exact=True,
            population=examples.population,
            target=target,
        )
        return {
            "loss": mean.value,
            "error": mean.data_error,
            "right": rows["right"].mean(),
        }

    for number, at in enumerate(np.ndindex(values.shape[1:])):
        found = piece(number, lambda at=at: find(at))
        values[(slice(None), *at)] = [found[k] for k in ("loss", "error", "right")]
        tell(number + 1, values[0].size)
    return Landscape(steps, *values)

"""Sharpness at a finite radius, where the kinks of ReLU count."""

import dataclasses
import math
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from eqcifar.errors import UsageError
from eqcifar.parallel import jit

from ._estimate import Estimate, estimate_mean
from ._examples import Batch, Examples, Rows, piece, stream
from ._losses import Loss, get_loss
from ._network import Network, scaling
from ._probe_traces import random_direction


@jit
def _losses(
    network: Network, loss: Loss, params: PyTree, batch: tuple[Array, Array]
) -> dict[str, Array]:
    logits = network(params, batch[0])
    right = jnp.argmax(logits, axis=1).astype(batch[1].dtype) == batch[1]
    return {"loss": jax.vmap(loss)(logits, batch[1]), "right": right}


@jit
def _gradient(network: Network, loss: Loss, params: PyTree, batch: Batch) -> PyTree:
    def total(p):
        return jnp.sum(
            batch.weights * jax.vmap(loss)(network(p, batch.images), batch.labels)
        )

    return jax.grad(total)(params)


@jax.jit
def _move(params: PyTree, direction: PyTree, amount: Array) -> PyTree:
    return jax.tree.map(lambda p, d: p + amount.astype(p.dtype) * d, params, direction)


def loss_at(
    network: Network, examples: Examples, loss: str | Loss, params: PyTree
) -> dict[str, Float[np.ndarray, " examples"]]:
    """Return each example's `loss`, and `right` (1 or 0), at other parameters.

    Normalisation keeps the statistics of the checkpoint.
    """
    loss = get_loss(loss)
    return stream(lambda b: _losses(network, loss, params, b[1:3]), examples)


def _norm(tree: PyTree) -> float:
    return math.sqrt(sum(float(jnp.vdot(x, x)) for x in jax.tree.leaves(tree)))


def sam_sharpness(
    network: Network,
    examples: Examples,
    loss: str | Loss,
    *,
    radius: float = 0.05,
    adaptive: bool = False,
    steps: int = 1,
    done: Rows | None = None,
) -> float:
    """Return L(theta + delta) - L(theta) for a worst-case delta of norm `radius`.

    With D = I, or if adaptive (ASAM, Kwon et al. 2021) |theta| for weights and 1 for
    biases and the scales and shifts of normalisation, delta maximises the linearised
    loss over ||D^-1 delta|| <= radius: delta = radius D^2 g / ||D g||, for g the
    gradient over all the examples. More steps take g anew at the point reached;
    the largest rise on the way is returned, a lower bound of the maximum in the ball.
    `done` holds the result of a call before.
    """
    loss = get_loss(loss)
    if radius <= 0:
        raise UsageError("The radius must be positive.")

    def find() -> dict[str, float]:
        return {"rise": _climb(network, examples, loss, radius, adaptive, steps)}

    return float(piece(done, 0, find)["rise"])


def _climb(
    network: Network,
    examples: Examples,
    loss: Loss,
    radius: float,
    adaptive: bool,
    steps: int,
) -> float:
    square = scaling(network.params, "asam" if adaptive else "plain")
    start = loss_at(network, examples, loss, network.params)["loss"].mean()
    params, rises = network.params, []
    for _ in range(steps):
        gradient = jax.tree.map(jnp.zeros_like, params)
        for batch in examples.batches():
            part = _gradient(network, loss, params, batch)
            gradient = jax.tree.map(jnp.add, gradient, part)
        scaled = jax.tree.map(lambda g, d: g * jnp.sqrt(d), gradient, square)
        norm = _norm(scaled)
        if norm == 0:
            break
        delta = jax.tree.map(lambda g, d: g * jnp.sqrt(d), scaled, square)
        params = _move(network.params, delta, jnp.asarray(radius / norm))
        moved = loss_at(network, examples, loss, params)["loss"].mean()
        rises.append(float(moved - start))
    return max(rises, default=0.0)


def average_sharpness(
    network: Network,
    examples: Examples,
    loss: str | Loss,
    *,
    radius: float = 0.05,
    adaptive: bool = False,
    probes: int,
    key: PRNGKeyArray,
    done: Rows | None = None,
    report: Callable[[int, int], None] | None = None,
) -> Estimate:
    """Estimate E[L(theta + D u) - L(theta)] for u uniform on the sphere of `radius`.

    Each direction is used with both signs, which removes the odd orders. As the radius
    goes to 0 this is radius^2 tr(D H D) / (2 P) plus what kinks add. D as in
    `sam_sharpness`. The error is over directions, at these examples.

    `done` holds the directions of an unfinished call; `report` is called after each.
    """
    loss = get_loss(loss)
    if probes < 2:
        raise UsageError("An error needs at least 2 directions.")
    begin = time.perf_counter()
    square = scaling(network.params, "asam" if adaptive else "plain")

    def at(params: PyTree) -> float:
        return float(loss_at(network, examples, loss, params)["loss"].mean())

    start = piece(done, -1, lambda: {"loss": at(network.params)})["loss"]

    def rise(m: int) -> dict[str, float]:
        draw = random_direction(jax.random.fold_in(key, m), network.params, "normal")
        amount = radius / _norm(draw)
        direction = jax.tree.map(lambda v, d: v * jnp.sqrt(d), draw, square)
        ends = [
            at(_move(network.params, direction, jnp.asarray(sign * amount)))
            for sign in (1.0, -1.0)
        ]
        return {"rise": float(np.mean(ends) - start)}

    rises = []
    for m in range(probes):
        rises.append(float(piece(done, m, lambda m=m: rise(m))["rise"]))
        if report is not None:
            report(m + 1, probes)
    return dataclasses.replace(
        estimate_mean(np.asarray([rises])),
        examples=len(examples),
        matvecs=2 * probes + 1,
        seconds=time.perf_counter() - begin,
    )

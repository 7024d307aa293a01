"""The worst rise of the loss near a network, by several steps of ascent."""

import dataclasses
import time
from functools import cache, partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from eqcifar.errors import UsageError
from eqcifar.losses import AnyLoss, Loss, get_loss
from eqcifar.parallel import jit

from ._estimate import Estimate, Target, estimate_mean
from ._examples import Batch, Examples, stream
from ._network import Network, scaling

Ball = Literal["l2", "linf"]


def m_sharpness(
    network: Network,
    examples: Examples,
    loss: AnyLoss,
    *,
    radius: float,
    m: int = 128,
    ball: Ball = "l2",
    adaptive: bool = False,
    steps: int = 20,
    target: Target = "split",
) -> Estimate:
    r"""Estimate the mean over groups of m images of the worst rise of their loss.

    For each group, the largest $L(\theta + \delta) - L(\theta)$ of its mean loss found
    on the way of projected ascent over $\|T^{-1} \delta\| \le \rho$, $T = I$ or that of
    ASAM (`eqcifar.sam.adaptive_scale`), in the Euclidean norm or the largest entry's:
    Andriushchenko et al. (2023), https://arxiv.org/abs/2302.07011, who take 20 steps of
    Auto-PGD. Here a step goes a distance of $2 \rho$, of the whole gradient or of its
    signs, and half of that after each fourth of the steps, from the best point so far;
    it is a lower bound of the maximum. Each group has a $\delta$ of its own, so that m
    is part of the measure; images left over form no group.

    **Arguments:**

    - `examples`: in random order.
    - `radius`: $\rho$.
    - `m`: images a group; all, where there are fewer.
    - `ball`, `adaptive`: the norm, and whether it is relative to each weight.
    - `steps`: gradients taken for each group.

    **Returns:**

    The mean rise, with the error of the draw of groups.
    """
    loss = get_loss(loss)
    if not radius > 0:
        raise UsageError(f"the radius must be positive, not {radius:g}")
    if steps < 1 or m < 1:
        raise UsageError("the worst rise takes a step and an image at least")
    begin = time.perf_counter()
    m = min(m, len(examples))
    whole = len(examples) - len(examples) % m
    # On each device as many of a group as on the others.
    size = -(-m // examples.devices) * examples.devices
    if size != m:
        raise UsageError(
            f"groups of {m} images cannot be shared by {examples.devices} devices: "
            "measure on one (--devices 1)"
        )
    groups = examples.take(examples.order[:whole]).with_batch_size(m)
    square = scaling(network.params, "asam" if adaptive else "plain")
    scale = jax.tree.map(jnp.sqrt, square)

    def kernel(batch: Batch) -> dict[str, Array]:
        rise = _climb(network, loss, scale, radius, ball, steps, batch)
        return {"rise": jnp.full(len(batch.images), rise)}

    rises = stream(kernel, groups)["rise"].reshape(-1, m)[:, :1]
    found = estimate_mean(
        rises,
        exact=True,
        population=max(examples.population // m, len(rises)),
        target=target,
        matvecs=steps * len(rises),
        seconds=time.perf_counter() - begin,
    )
    return dataclasses.replace(found, examples=whole)


def of_unit_logits(loss: AnyLoss) -> Loss:
    """The loss of logits divided by their standard deviation over the classes.

    Scaling the last layer changes nothing of it. Andriushchenko et al. (2023),
    https://arxiv.org/abs/2302.07011

    **Arguments:**

    - `loss`: as for `m_sharpness`.
    """
    return _of_unit_logits(get_loss(loss))


@cache
def _of_unit_logits(loss: Loss) -> Loss:
    # Once for each loss, so that it is compiled once.
    def function(logits: Array, target: Array) -> Array:
        return loss.function(logits / jnp.std(logits), target)

    return dataclasses.replace(loss, function=function, root=None)


def _climb(
    network: Network,
    loss: Loss,
    scale: PyTree,
    radius: float,
    ball: Ball,
    steps: int,
    batch: Batch,
) -> Array:
    delta = jax.tree.map(jnp.zeros_like, network.params)
    first, slope = _loss_and_slope(network, loss, scale, delta, batch)
    best, at_best, slope_at_best = first, delta, slope
    for step in range(steps):
        distance = 2.0 * radius * 0.5 ** (4 * step // steps)
        if step and 4 * step // steps != 4 * (step - 1) // steps:
            delta, slope = at_best, slope_at_best
        delta = _ascend(delta, slope, jnp.asarray(distance), jnp.asarray(radius), ball)
        value, slope = _loss_and_slope(network, loss, scale, delta, batch)
        better = value > best
        best = jnp.where(better, value, best)
        at_best, slope_at_best = (
            jax.tree.map(partial(jnp.where, better), new, old)
            for new, old in ((delta, at_best), (slope, slope_at_best))
        )
    return best - first


@jit
def _loss_and_slope(
    network: Network, loss: Loss, scale: PyTree, delta: PyTree, batch: Batch
) -> tuple[Array, PyTree]:
    """The group's mean loss at theta + T delta, and its gradient in delta."""

    def mean(d):
        params = jax.tree.map(lambda p, t, x: p + t * x, network.params, scale, d)
        losses = jax.vmap(loss)(network(params, batch.images), batch.labels)
        return jnp.sum(batch.weights * losses) / jnp.sum(batch.weights)

    return jax.value_and_grad(mean)(delta)


@partial(jax.jit, static_argnames="ball")
def _ascend(
    delta: PyTree, slope: PyTree, distance: Array, radius: Array, ball: Ball
) -> PyTree:
    """A step of a length, and back into the ball."""

    def norm(tree: PyTree) -> Array:
        return jnp.sqrt(sum(jnp.vdot(x, x) for x in jax.tree.leaves(tree)))

    if ball == "linf":
        return jax.tree.map(
            lambda d, s: jnp.clip(
                d + distance.astype(d.dtype) * jnp.sign(s),
                -radius.astype(d.dtype),
                radius.astype(d.dtype),
            ),
            delta,
            slope,
        )
    length = norm(slope)
    factor = jnp.where(length > 0, distance / jnp.where(length > 0, length, 1), 0)
    moved = jax.tree.map(lambda d, s: d + factor.astype(d.dtype) * s, delta, slope)
    outside = norm(moved)
    shrink = jnp.where(outside > radius, radius / jnp.where(outside > 0, outside, 1), 1)
    return jax.tree.map(lambda d: shrink.astype(d.dtype) * d, moved)

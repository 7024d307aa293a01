"""Sharpness at a finite radius, where the kinks of ReLU count."""

import dataclasses
import itertools
import math
import time
from collections.abc import Sequence
from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from eqcifar.errors import UsageError
from eqcifar.losses import AnyLoss, Loss, get_loss
from eqcifar.parallel import jit
from eqcifar.sam import perturbation

from ._draw import cuts_of, estimate_fitted, is_sample
from ._estimate import Estimate, Target, estimate_mean
from ._examples import Batch, Examples, stream
from ._network import Network, scaling
from ._pieces import page, piece, tell, whole
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


def _gradient_over(
    network: Network, examples: Examples, loss: Loss, params: PyTree
) -> Float[Array, " size"]:
    """The sum of the examples' gradients."""
    total = jax.tree.map(jnp.zeros_like, params)
    for batch in examples.batches():
        part = _gradient(network, loss, params, batch)
        total = jax.tree.map(jnp.add, total, part)
    return ravel_pytree(total)[0]


@jax.jit
def _move(params: PyTree, direction: PyTree, amount: Array) -> PyTree:
    return jax.tree.map(lambda p, d: p + amount.astype(p.dtype) * d, params, direction)


def loss_at(
    network: Network, examples: Examples, loss: AnyLoss, params: PyTree
) -> dict[str, Float[np.ndarray, " examples"]]:
    """Return each example's `loss`, and `right` (1 or 0), at other parameters.

    Normalisation keeps the statistics of the checkpoint.
    """
    loss = get_loss(loss)
    return stream(lambda b: _losses(network, loss, params, b[1:3]), examples)


def _norm(tree: PyTree) -> float:
    return math.sqrt(sum(float(jnp.vdot(x, x)) for x in jax.tree.leaves(tree)))


@dataclasses.dataclass(frozen=True)
class Slope:
    """Where the loss starts to rise from, and whither; of `slope_of`.

    - `losses`: each image's.
    - `gradients`: of the sum over each group of `cuts_of` the images, flat.
    """

    losses: Float[np.ndarray, " examples"]
    gradients: list[Float[np.ndarray, " size"]]


def slope_of(network: Network, examples: Examples, loss: AnyLoss) -> Slope:
    """Pass over all images once for what `sam_sharpness` and others begin with."""
    loss = get_loss(loss)
    groups = cuts_of(network, examples).groups(examples)
    gradients = []
    for number, some in enumerate(groups):
        one = partial(_gradient_over, network, some, loss, network.params)
        gradients.append(piece(number, lambda one=one: {"gradient": one()})["gradient"])
        tell(number + 1, len(groups) + 1)
    begin = partial(loss_at, network, examples, loss, network.params)
    return Slope(piece(len(groups), begin)["loss"], gradients)


def sam_sharpness(
    network: Network,
    examples: Examples,
    loss: AnyLoss,
    *,
    radius: float = 0.05,
    adaptive: bool = False,
    steps: int = 1,
    target: Target = "split",
    slope: Slope | None = None,
) -> Estimate:
    """Estimate L(theta + delta) - L(theta) for a worst-case delta of norm `radius`.

    With D = I, or if adaptive that of ASAM (Kwon et al. 2021), which
    `eqcifar.sam.adaptive_scale` has, delta maximises the linearised
    loss over ||D^-1 delta|| <= radius: delta = radius D^2 g / ||D g||, for g the
    gradient over all the examples: that of `eqcifar.sam`, with which training by SAM
    moves away before it takes a gradient. More steps take g anew at the point reached;
    the largest rise on the way is taken, a lower bound of the maximum in the ball.

    From some images of a split, delta fits these images and the rise is too large:
    see `estimate_fitted`, whose halves have directions of their own. Where the gradient
    is small beside its spread over images, as after training, they show the bias in
    part alone: 95 % intervals hold the value over all images in 85 to 100 % of draws
    (`benchmarks/coverage_fitted.py`). `slope` is `slope_of` these very images, if it is
    known.
    """
    loss = get_loss(loss)
    if not radius > 0:
        raise UsageError(f"the radius must be positive, not {radius:g}")
    if steps < 1:
        raise UsageError("the worst direction takes at least one step")
    begin = time.perf_counter()
    if slope is None:
        with page("slope"):
            slope = slope_of(network, examples, loss)
    of_halves = is_sample(examples, target)

    def climb() -> dict[str, np.ndarray]:
        rises, *halves = _climbs(
            network, examples, loss, slope, radius, adaptive, steps, of_halves
        )
        return {"rises": rises, "halves": np.asarray([half.mean() for half in halves])}

    climbed = whole(climb)
    found = estimate_fitted(
        float(climbed["rises"].mean()),
        climbed["rises"],
        climbed["halves"].reshape(-1, 2),
        population=examples.population,
        target=target,
        maximal=False,
    )
    return dataclasses.replace(
        found, matvecs=steps, seconds=time.perf_counter() - begin
    )


def _climbs(
    network: Network,
    examples: Examples,
    loss: Loss,
    slope: Slope,
    radius: float,
    adaptive: bool,
    steps: int,
    of_halves: bool,
) -> list[Float[np.ndarray, " images"]]:
    """Each image's rise, where their mean is the largest: of all, then of halves."""
    cuts = cuts_of(network, examples)
    sides = [np.ones(len(slope.gradients), bool)]
    if of_halves:
        sides += [side for both in cuts.sides for side in both]
    unravel = ravel_pytree(network.params)[1]

    def climb(side: Bool[np.ndarray, " groups"]) -> np.ndarray:
        some, rises = cuts.half(examples, side), []
        before = slope.losses[cuts.members(side)]
        gradient = reduce(np.add, itertools.compress(slope.gradients, side))
        for step in range(steps):
            ascent = unravel(jnp.asarray(gradient))
            delta = perturbation(network.params, ascent, radius, adaptive=adaptive)
            params = _move(network.params, delta, jnp.asarray(1.0))
            rises.append(loss_at(network, some, loss, params)["loss"] - before)
            if step < steps - 1:
                gradient = _gradient_over(network, some, loss, params)
        return max(rises, key=np.mean)

    found = []
    for number, side in enumerate(sides):
        one = piece(number, lambda side=side: {"found": climb(side)})
        found.append(one["found"])
        tell(number + 1, len(sides))
    return found


def rises_at(
    network: Network,
    examples: Examples,
    loss: AnyLoss,
    directions: Sequence[PyTree],
    reach: float,
) -> Float[np.ndarray, " examples"]:
    """Return each example's mean rise at theta +- reach d (+- reach e)."""

    def at(*signs: float) -> np.ndarray:
        params = network.params
        for sign, direction in zip(signs, directions, strict=False):
            params = _move(params, direction, jnp.asarray(sign * reach))
        return loss_at(network, examples, loss, params)["loss"]

    corners = itertools.product((1.0, -1.0), repeat=len(directions))
    return np.mean([at(*signs) for signs in corners], axis=0) - at()


def average_sharpness(
    network: Network,
    examples: Examples,
    loss: AnyLoss,
    *,
    radius: float = 0.05,
    adaptive: bool = False,
    probes: int,
    target: Target = "split",
    losses: Float[np.ndarray, " examples"] | None = None,
    key: PRNGKeyArray,
) -> Estimate:
    """Estimate E[L(theta + D u) - L(theta)] for u uniform on the sphere of `radius`.

    Each direction is used with both signs, which removes the odd orders. As the radius
    goes to 0 this is radius^2 tr(D H D) / (2 P) plus what kinks add. D as in
    `sam_sharpness`. The examples share their directions: from 5 of them, 95 % intervals
    hold the value in 68 to 96 % of draws (`benchmarks/coverage_fitted.py`). `losses`
    are the images', if they are known.
    """
    loss = get_loss(loss)
    if probes < 2:
        raise UsageError("an error needs at least 2 directions")
    if not radius > 0:
        raise UsageError(f"the radius must be positive, not {radius:g}")
    begin = time.perf_counter()
    square = scaling(network.params, "asam" if adaptive else "plain")

    def at(params: PyTree) -> np.ndarray:
        return loss_at(network, examples, loss, params)["loss"]

    if losses is None:
        losses = piece(-1, lambda: {"loss": at(network.params)})["loss"]

    def rise(m: int) -> dict[str, np.ndarray]:
        draw = random_direction(jax.random.fold_in(key, m), network.params, "normal")
        amount = radius / _norm(draw)
        direction = jax.tree.map(lambda v, d: v * jnp.sqrt(d), draw, square)
        ends = [
            at(_move(network.params, direction, jnp.asarray(sign * amount)))
            for sign in (1.0, -1.0)
        ]
        return {"rise": np.mean(ends, axis=0) - losses}

    rises = []
    for m in range(probes):
        rises.append(piece(m, lambda m=m: rise(m))["rise"])
        tell(4 * (m + 1), 4 * probes)
    return estimate_mean(
        np.stack(rises, axis=1),
        groups=np.zeros(len(examples), int),
        population=examples.population,
        target=target,
        matvecs=2 * probes + 1,
        seconds=time.perf_counter() - begin,
    )

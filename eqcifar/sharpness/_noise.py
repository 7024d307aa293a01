"""The noise on the parameters that a network's accuracy bears."""

import dataclasses
import math
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from eqcifar.errors import UsageError
from eqcifar.parallel import jit

from ._estimate import Estimate, Target, estimate_mean
from ._examples import Batch, Examples, stream
from ._network import Network
from ._pieces import piece, tell
from ._probe_traces import random_direction

# Halvings of the logarithm of sigma, and where they begin.
_HALVINGS = 14
_LARGEST, _SMALLEST = 2.0, 1e-5
# Of sigma, to each side, for the slope of the accuracy there.
_STEP = 0.1


def pac_bayes_sigma(
    network: Network,
    examples: Examples,
    *,
    magnitude: float | None = None,
    drop: float = 0.1,
    draws: int,
    target: Target = "split",
    key: PRNGKeyArray,
) -> Estimate:
    r"""Find the largest $\sigma$ at which noise costs no more accuracy than `drop`.

    The mean over Gaussian noise of *standard deviation* $\sigma$ on every parameter, or
    with `magnitude` $\epsilon$ of $\sqrt{\sigma^2 \theta_j^2 + \epsilon^2}$:
    Dziugaite et al. (2020), https://arxiv.org/abs/2010.11924, appendix C, after Jiang
    et al. (2019), whose public code draws noise of deviation $\sigma^2$ and
    $\sigma^2 \theta_j^2 + \epsilon^2$ in their place. All $\sigma$ share their draws,
    and the bisection is of its logarithm. Normalisation keeps the statistics of the
    checkpoint.

    The error is that of the drop at the $\sigma$ that was found, from draws and images,
    over the slope of the drop there.

    **Arguments:**

    - `magnitude`: $\epsilon$.
    - `drop`: share of images.
    - `draws`: of noise, 2 at least.

    **Returns:**

    $\sigma$; at most 2.
    """
    if draws < 2:
        raise UsageError("an error needs at least 2 draws of noise")
    begin = time.perf_counter()

    def right(params: PyTree) -> np.ndarray:
        return stream(lambda b: {"right": _right(network, params, b)}, examples)[
            "right"
        ]

    start = piece(-1, lambda: {"right": right(network.params)})["right"]
    noise = [
        random_direction(jax.random.fold_in(key, m), network.params, "normal")
        for m in range(draws)
    ]
    total, done = _HALVINGS + 3, 0

    def drops(sigma: float) -> np.ndarray:
        nonlocal done
        found = [
            start - right(_with_noise(network.params, each, sigma, magnitude))
            for each in noise
        ]
        done += 1
        tell(min(done, total), total)
        return np.stack(found, axis=1)

    def at(number: int, sigma: float) -> np.ndarray:
        return piece(number, lambda: {"drop": drops(sigma)})["drop"]

    low, high = math.log(_SMALLEST), math.log(_LARGEST)
    if at(0, _LARGEST).mean() <= drop:
        low = high
    for number in range(1, _HALVINGS + 1):
        middle = (low + high) / 2
        if at(number, math.exp(middle)).mean() <= drop:
            low = middle
        else:
            high = middle
    sigma = math.exp((low + high) / 2)
    ends = [
        float(at(_HALVINGS + 1 + side, sigma * (1 + sign * _STEP)).mean())
        for side, sign in enumerate((-1, 1))
    ]
    slope = (ends[1] - ends[0]) / (2 * _STEP * sigma)
    found = estimate_mean(
        at(_HALVINGS + 3, sigma),
        groups=np.zeros(len(examples), int),
        population=examples.population,
        target=target,
        matvecs=draws * (_HALVINGS + 4) + 1,
        seconds=time.perf_counter() - begin,
    )
    scale = 1 / slope if slope > 0 else math.inf
    return dataclasses.replace(
        found,
        value=sigma,
        probe_error=found.probe_error * scale,
        data_error=found.data_error * scale,
        skewness=0.0,
    )


@jit
def _right(network: Network, params: PyTree, batch: Batch) -> Array:
    # Much noise takes the logits of a deep network beyond all numbers.
    logits = network(params, batch.images)
    finite, best = jnp.isfinite(logits).all(axis=1), jnp.argmax(logits, axis=1)
    return finite & (best.astype(batch.labels.dtype) == batch.labels)


@partial(jax.jit, static_argnames="magnitude")
def _noisy(
    params: PyTree, noise: PyTree, sigma: Array, magnitude: float | None
) -> PyTree:
    def add(p, z):
        s = sigma.astype(p.dtype)
        if magnitude is None:
            return p + s * z
        return p + jnp.sqrt((s * p) ** 2 + magnitude**2) * z

    return jax.tree.map(add, params, noise)


def _with_noise(
    params: PyTree, noise: PyTree, sigma: float, magnitude: float | None
) -> PyTree:
    return _noisy(params, noise, jnp.asarray(sigma, jnp.float32), magnitude)

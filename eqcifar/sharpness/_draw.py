"""The error of a number that was fitted to the images it is measured on."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from ._estimate import Estimate, Target, estimate_mean
from ._examples import Examples
from ._pieces import page, whole

# Of how many cuts into halves the bias is the mean.
CUTS = 4


def is_sample(examples: Examples, target: Target) -> bool:
    """Whether the target is more than these images."""
    return target == "population" or len(examples) < examples.population


def estimate_fitted(
    value: float,
    terms: Float[np.ndarray, " examples"],
    halves: Float[np.ndarray, "cuts 2"],
    *,
    population: int,
    target: Target = "split",
    maximal: bool = True,
) -> Estimate:
    """Estimate a mean over images along a direction that was fitted to them.

    Such are the largest eigenvalue and the worst rise of the loss: with x_i(u) the
    value of image i along u, f(n) = mean_i x_i(u(n)). If u(n) maximises the mean, f(n)
    errs to first order as the mean of x_i at the u that was found (of a simple
    eigenvalue, the perturbation v'(H_n - H)v); if not, u errs as well, and the error is
    that of the halves below. To second order f(n) is too large, by c (1/n - 1/N) on
    average, for u was fitted to the n images at hand. Each cut of the images into
    halves errs once more, like a new draw: the halves' mean of f less f(n) estimates
    c / n. The spread of that over cuts, and the bias itself, are added to the error.
    The value is

        f(n) - bias,   bias = (1 - n/N) mean_cuts ((f(half) + f(other half)) / 2 - f(n))

    without the factor 1 - n/N if the target is the population.

    **Arguments:**

    - `value`: f(n).
    - `terms`: x_i(u), one an image.
    - `halves`: f of each half of each cut; no cuts, if the images are all of the split.
    - `population`: N.
    - `maximal`: u(n) maximises the mean, so that its own error does not count.
    """
    first = estimate_mean(
        terms[:, None], exact=True, population=population, target=target
    )
    first = first.shift(value - first.value)
    if len(halves) == 0:
        return first
    left = 1.0 - len(terms) / population if target == "split" else 1.0
    excess = left * (halves.mean(axis=1) - value)
    bias = float(excess.mean())
    if not maximal:
        # Half the halves' difference errs like f(n), u and all.
        error = math.sqrt(left * float((np.diff(halves, axis=1) ** 2).mean())) / 2
        if error > first.data_error:
            first = dataclasses.replace(
                first, data_error=error, data_freedom=float(len(halves)), skewness=0.0
            )
    spread = float(excess.std(ddof=1)) * math.sqrt(1 + 1 / len(excess))
    more = math.hypot(spread, bias)
    wider = first.shift(-bias).with_more_error(data_error=more)
    return dataclasses.replace(wider, bias=bias)


def over_halves(
    examples: Examples,
    find: Callable[[Examples], np.ndarray],
    cuts: int = CUTS,
) -> Float[np.ndarray, "cuts 2 ..."]:
    """What `find` finds on both halves of each cut."""
    found = []
    for cut in range(cuts):
        for side, half in enumerate(examples.halves(cut)):
            with page(f"half{cut}{side}"):
                found.append(whole(lambda half=half: {"found": find(half)})["found"])
    table = np.stack(found)
    return table.reshape(cuts, 2, *table.shape[1:])

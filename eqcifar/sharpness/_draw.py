"""The error of a number that was fitted to the images it is measured on."""

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.linalg import hadamard

from ._estimate import Estimate, Target, estimate_mean
from ._examples import Examples
from ._network import Network

# Of images at most, and so one cut less.
GROUPS = 8


@dataclasses.dataclass(frozen=True)
class Cuts:
    """Images in groups, and cuts of the groups into halves that are orthogonal.

    What is a sum over images is found once in each group, for all cuts: balanced
    repeated replication (McCarthy 1969).

    - `group`: which each image is in; as many groups as there are images, but a power
        of two and `GROUPS` at most.
    - `first`: which groups make the first half of each cut; one cut less than groups.
    - `together`: so many that follow each other are in one group, as a batch.
    """

    group: Int[np.ndarray, " images"]
    first: Bool[np.ndarray, "cuts groups"]
    together: int = 1

    @property
    def sizes(self) -> Int[np.ndarray, " groups"]:
        """How many images each group has."""
        return np.bincount(self.group)

    @property
    def sides(self) -> Bool[np.ndarray, "cuts 2 groups"]:
        """Which groups make each half."""
        return np.stack([self.first, ~self.first], axis=1)

    @property
    def shares(self) -> Float[np.ndarray, "cuts 2 groups"]:
        """The share of each group in a mean over each half."""
        sizes = self.sides * self.sizes
        return sizes / sizes.sum(axis=2, keepdims=True)

    def members(self, side: Bool[np.ndarray, " groups"]) -> Int[np.ndarray, " chosen"]:
        """Which images the groups have that make a half."""
        return np.flatnonzero(side[self.group])

    def groups(self, examples: Examples) -> list[Examples]:
        """The images of each group, in batches of one size."""
        every = np.eye(len(self.sizes), dtype=bool)
        parts = [self.half(examples, one) for one in every]
        if self.together > 1:
            return parts
        most, devices = self.sizes.max(), examples.devices
        batch = -(-most // -(-most // examples.batch_size))
        batch = -(-batch // devices) * devices
        return [part.with_batch_size(int(batch)) for part in parts]

    def half(self, examples: Examples, side: Bool[np.ndarray, " groups"]) -> Examples:
        """The images of a half."""
        return examples.take(examples.order[self.members(side)])


def cut(size: int, *, together: int = 1, seed: int = 0) -> Cuts:
    """Put so many images at random into groups, of which halves are made.

    **Arguments:**

    - `together`: so many that follow each other are in one group: a batch, where the
        statistics of batches count.
    """
    block = np.arange(size) // together
    blocks = int(block[-1]) + 1
    count = min(GROUPS, 1 << (blocks.bit_length() - 1))
    group = np.random.default_rng(seed).permutation(blocks) % count
    return Cuts(group[block], hadamard(count)[1:] > 0, together)


def cuts_of(network: Network, examples: Examples) -> Cuts:
    """The cuts of examples, between batches where the network looks at its batch."""
    together = examples.batch_size if network.batch_statistics else 1
    return cut(len(examples), together=together)


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
    spread = float(excess.std(ddof=min(len(excess) - 1, 1))) * math.sqrt(
        1 + 1 / len(excess)
    )
    more = math.hypot(spread, bias)
    wider = first.shift(-bias).with_more_error(data_error=more)
    return dataclasses.replace(wider, bias=bias)

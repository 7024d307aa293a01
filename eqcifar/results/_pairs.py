"""How alike two orders of the same networks are, over pairs of them."""

import dataclasses
import itertools
from typing import Any, TypeAlias

import numpy as np

# One number, or one a draw.
Numbers: TypeAlias = np.ndarray | np.floating

# So many options are taken together, as in the paper.
_MOST_OPTIONS = 2


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Networks, and the pairs of them that statistics of order are means over.

    - `networks`: of how many.
    - `configuration`: the number of each one's configuration, its options without the
        seed.
    - `first`, `second`: of each pair.
    - `axes`: by option, the pairs that differ in it alone, seed included, and how much
        each counts: 1 over their number in its group, so that groups count alike.
    - `environments`: pairs of configurations that differ in one option, as rows
        `(environment, pair)` of all their networks' pairs.
    - `values`: by option, the number of each network's value.
    """

    networks: int
    configuration: np.ndarray
    first: np.ndarray
    second: np.ndarray
    axes: dict[str, tuple[np.ndarray, np.ndarray]]
    environments: np.ndarray
    values: dict[str, np.ndarray]

    @property
    def configurations(self) -> int:
        """How many there are."""
        return int(self.configuration.max()) + 1

    def signs(self, numbers: np.ndarray) -> np.ndarray:
        """Which of each pair is greater: 1, -1, or 0; the last axis is networks."""
        return np.sign(numbers[..., self.first] - numbers[..., self.second])

    def weights(self, counts: np.ndarray) -> np.ndarray:
        """How often each pair is there, of configurations drawn so often."""
        one, other = self.configuration[self.first], self.configuration[self.second]
        # Copies of one network are no pair.
        second = np.where(one == other, 1, counts[..., other])
        return counts[..., one] * second


def make_pairs(options: dict[str, list[Any]], seeds: list[int]) -> Pairs:
    """All pairs of networks, from the options that tell their configurations apart.

    **Arguments:**

    - `options`: by name, each network's value.
    - `seeds`: each network's.
    """
    count = len(seeds)
    codes = {name: _numbered(values) for name, values in options.items()}
    table = np.array([*codes.values()], dtype=int).reshape(len(codes), count)
    configuration = _numbered([tuple(column) for column in table.T])
    first, second = np.triu_indices(count, 1)
    differ = table[:, first] != table[:, second]
    alone = differ.sum(axis=0) == 1
    same_seed = np.array(seeds)[first] == np.array(seeds)[second]
    axes = {}
    for at, name in enumerate(codes):
        chosen = np.flatnonzero(alone & same_seed & differ[at])
        if len(chosen):
            others = np.delete(table, at, axis=0)[:, first[chosen]]
            keys = zip(np.array(seeds)[first[chosen]], *others, strict=True)
            group = _numbered([tuple(map(int, key)) for key in keys])
            axes[name] = chosen, 1.0 / np.bincount(group)[group]
    chosen = np.flatnonzero(alone)
    between = np.sort(
        np.stack([configuration[first[chosen]], configuration[second[chosen]]]), axis=0
    )
    number = _numbered([tuple(map(int, pair)) for pair in between.T])
    environments = np.stack([number, chosen]).astype(int)
    return Pairs(count, configuration, first, second, axes, environments, codes)


def _numbered(values: list[Any]) -> np.ndarray:
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], int)


def kendall(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> Numbers:
    """Kendall's tau-b from the signs of pairs, the last axis; nan where all tie."""
    with np.errstate(invalid="ignore", divide="ignore"):
        untied = (weights * np.abs(x)).sum(-1) * (weights * np.abs(y)).sum(-1)
        return (weights * x * y).sum(-1) / np.sqrt(untied)


def granulated(
    pairs: Pairs, concord: np.ndarray, weights: np.ndarray
) -> dict[str, Numbers]:
    """The mean of Kendall's tau over groups in which one option varies, by option.

    psi_i of Jiang et al. (2019), https://arxiv.org/abs/1912.02178, eq. 5; the seed is
    fixed as an option is, and a tie counts as 0.

    **Arguments:**

    - `concord`: products of the signs of pairs; the last axis is pairs.
    - `weights`: of pairs.
    """
    found = {}
    for name, (chosen, share) in pairs.axes.items():
        weight = weights[..., chosen] * share
        with np.errstate(invalid="ignore"):
            found[name] = (weight * concord[..., chosen]).sum(-1) / weight.sum(-1)
    return found


def sign_errors(
    pairs: Pairs, concord: np.ndarray, weights: np.ndarray
) -> dict[str, Numbers]:
    """How often a measure orders networks wrongly where one option is changed.

    Of an environment, a pair of configurations that differ in one option, the error is
    the mean over seeds of (1 - sign(d mu) sign(d g)) / 2: Dziugaite et al. (2020),
    https://arxiv.org/abs/2010.11924, without their filter of noise.

    **Arguments:**

    - `concord`, `weights`: as for `granulated`.

    **Returns:**

    `mean`, `quantile90` and `worst` over environments.
    """
    number, chosen = pairs.environments
    if not len(number):
        unknown = np.full(weights.shape[:-1], np.nan)
        return dict.fromkeys(("mean", "quantile90", "worst"), unknown)
    size = np.bincount(number)
    members = np.zeros((len(size), len(number)))
    members[number, np.arange(len(number))] = 1.0 / size[number]
    errors = (1.0 - concord[..., chosen]) / 2.0 @ members.T
    # All pairs of an environment are of the same two configurations.
    weight = weights[..., chosen] @ members.T
    errors = np.broadcast_to(errors, weight.shape)
    order = np.argsort(errors, axis=-1)
    sorted_ = np.take_along_axis(errors, order, -1)
    share = np.cumsum(np.take_along_axis(weight, order, -1), axis=-1)
    total = share[..., -1:]
    with np.errstate(invalid="ignore"):
        mean = (weight * errors).sum(-1) / total[..., 0]

    def at(level: float) -> Numbers:
        where = (share < level * total * (1 - 1e-12)).sum(-1, keepdims=True)
        found = np.take_along_axis(sorted_, where, -1)[..., 0]
        return np.where(total[..., 0] > 0, found, np.nan)

    return {"mean": mean, "quantile90": at(0.9), "worst": at(1.0)}


def conditional_information(
    pairs: Pairs, x: np.ndarray, y: np.ndarray, weights: np.ndarray
) -> float:
    """What a measure tells of an order that two options together do not.

    The least, over sets S of up to 2 options, of I(V_mu; V_g | U_S) / H(V_g | U_S): V
    are the signs of a pair's differences, U_S the values of S in both networks. Jiang
    et al. (2019), https://arxiv.org/abs/1912.02178, eqs. 8 to 10. From few pairs it is
    too large: see its value by chance.

    **Arguments:**

    - `x`, `y`: signs of pairs.
    - `weights`: of pairs.
    """
    sets = itertools.chain.from_iterable(
        itertools.combinations(pairs.values, size)
        for size in range(min(_MOST_OPTIONS, len(pairs.values)) + 1)
    )
    shares = [_information(x, y, weights, *_conditions(pairs, names)) for names in sets]
    known = [share for share in shares if share == share]
    return min(known) if known else float("nan")


def _conditions(
    pairs: Pairs, names: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The cell of each pair's values, which of the two is first, and whose are alike.

    A pair taken the other way round has mirrored signs: the smaller value is first.
    """
    one, other = np.zeros((2, len(pairs.first)), int)
    for name in names:
        values = pairs.values[name]
        size = int(values.max()) + 1
        one = one * size + values[pairs.first]
        other = other * size + values[pairs.second]
    low, high = np.minimum(one, other), np.maximum(one, other)
    _, at, cell = np.unique(
        low * (int(high.max()) + 1) + high, return_index=True, return_inverse=True
    )
    return cell, np.where(one > other, -1, 1), (one == other)[at]


def _information(
    x: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray,
    cell: np.ndarray,
    turn: np.ndarray,
    alike: np.ndarray,
) -> float:
    a, b = (turn * x).astype(int) + 1, (turn * y).astype(int) + 1
    shape = len(alike), 3, 3
    counts = np.bincount(cell * 9 + a * 3 + b, weights, 9 * len(alike)).reshape(shape)
    # Where both networks have the same values, no order is the first.
    mirrored = (counts + counts[:, ::-1, ::-1]) / 2
    share = np.where(alike[:, None, None], mirrored, counts)
    if not share.any():
        return float("nan")
    share = share / share.sum()
    total = share.sum(axis=(1, 2), keepdims=True)
    of_x, of_y = share.sum(axis=2, keepdims=True), share.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        mutual = np.nansum(share * np.log(share * total / (of_x * of_y)))
        entropy = -np.nansum(of_y * np.log(of_y / total))
    return float(mutual / entropy) if entropy > 1e-12 else float("nan")

"""How well measures order networks, with intervals: the question of model selection."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import UsageError, unknown
from ..fields import show_field
from ._columns import error_of, group_equal, images_of, parse_column
from ._pairs import (
    Numbers,
    Pairs,
    conditional_information,
    granulated,
    kendall,
    make_pairs,
    sign_errors,
)
from ._records import Record
from ._table import Table, measured_columns, sharpness_columns

# What networks are ordered by, from the columns of `log.tsv`.
TARGETS: dict[str, tuple[str, Callable[[Mapping[str, float]], float]]] = {
    "test_error": ("test error", lambda log: 1 - log["acc_te"]),
    "gap": (
        "generalisation gap, training less test accuracy",
        lambda log: log["acc_tr"] - log["acc_te"],
    ),
    "loss_gap": (
        "loss gap, test less training loss",
        lambda log: log["loss_te"] - log["loss_tr"],
    ),
}
FEW = 20
_LEAST = 3
# It takes as long as all the others together.
_INFORMATION_SHARE = 10
# Redrawn pairs at a time: some tens of megabytes.
_AT_ONCE = 2_000_000
_IMAGES = (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)


@dataclasses.dataclass(frozen=True)
class Ranged:
    """A number with the ends of its 95 % interval; nan where nothing tells them."""

    value: float
    low: float = math.nan
    high: float = math.nan


@dataclasses.dataclass(frozen=True)
class Ranked:
    """How well one measure orders networks.

    - `measure`, `split`, `column`: what is ordered by; `same` are columns with the same
        numbers.
    - `target`: a key of `TARGETS`.
    - `networks`, `configurations`, `images`: of how many, and measured on how many.
    - `tau`: Kendall's tau-b over all pairs.
    - `by_option`: granulated tau, by option that varies; `granulated`: its mean.
    - `information`: normalised conditional mutual information; `by_chance`: that of the
        same numbers in random order.
    - `sign_error`: its `mean`, `quantile90` and `worst` over environments.
    - `regret`: accuracy of the best network less that of the one of least measure.
    - `worth`: on so many held-out images, choosing by accuracy has that regret; 0 where
        choosing at random has, inf where no number tried is enough.
    """

    measure: str
    split: str
    column: str
    same: tuple[str, ...]
    target: str
    networks: int
    configurations: int
    images: tuple[int, ...]
    tau: Ranged
    by_option: Mapping[str, Ranged]
    granulated: Ranged
    information: Ranged
    by_chance: float
    sign_error: Mapping[str, Ranged]
    regret: Ranged
    worth: Ranged


@dataclasses.dataclass(frozen=True)
class Ranking:
    """How well measures order the networks of one data set.

    - `dataset`: its name; `synthetic`: whether its images are.
    - `networks`, `configurations`: of how many.
    - `options`: what tells configurations apart, and how many values of each.
    - `rows`: a measure, split and target each.
    - `random`: regret of choosing at random.
    - `validation`: regret of choosing by accuracy on so many held-out images.
    - `draws`: of the bootstrap.
    - `warnings`: lines on what the numbers cannot bear.
    """

    dataset: str
    synthetic: bool
    networks: int
    configurations: int
    options: Mapping[str, int]
    rows: tuple[Ranked, ...]
    random: float
    validation: Mapping[int, float]
    draws: int
    warnings: tuple[str, ...]


def rank(
    tables: Iterable[Table],
    measures: Sequence[str] | None = None,
    targets: Sequence[str] = tuple(TARGETS),
    *,
    draws: int = 1000,
    seed: int = 0,
) -> list[Ranking]:
    """Say how well measures order networks by what they should foretell.

    A network is a run. Intervals are of a bootstrap: configurations are drawn with
    replacement, each with all its seeds, and each measure anew from a normal
    distribution about its value with its standard error. Those of tau are the spread
    of the draws about the value, corrected for what drawing does to means over pairs
    and for few configurations; those of the other numbers are percentiles.

    **Arguments:**

    - `tables`: from `tabulate`.
    - `measures`: columns of the records, where less is better; by default all measures
        of sharpness.
    - `targets`: keys of `TARGETS`.
    - `draws`: of the bootstrap.
    - `seed`: of the draws.

    **Returns:**

    A ranking for each data set.

    **Raises:**

    `UsageError` for an unknown target, for a measure that no run has, and where too few
    configurations are done to order any.
    """
    for target in targets:
        if target not in TARGETS:
            raise unknown("target", target, TARGETS)
    tables, rankings = list(tables), []
    columns = sharpness_columns(tables) if measures is None else list(measures)
    there = measured_columns(tables)
    for name in columns:
        if name not in there:
            raise UsageError(f"no run has measured {name!r}")
    for table in tables:
        for dataset, records, options in _by_dataset(table):
            if len({_kind(options, at) for at in range(len(records))}) >= _LEAST:
                about = dataset, table.synthetic
                rankings.append(
                    _rank(about, records, options, columns, targets, draws, seed)
                )
    if not rankings:
        raise UsageError(
            f"nothing to rank: it takes {_LEAST} finished configurations of one data "
            "set at least"
        )
    return rankings


def _by_dataset(
    table: Table,
) -> Iterable[tuple[str, list[Record], dict[str, list[Any]]]]:
    names = [name for name in table.fields if name != "dataset"]
    groups: dict[str, list[Any]] = {}
    for group in table.groups:
        dataset = show_field(group.fields.get("dataset", "all data sets"))
        groups.setdefault(dataset, []).append(group)
    for dataset, members in groups.items():
        records = [record for group in members for record in group.done]
        options = {
            name: [group.fields[name] for group in members for _ in group.done]
            for name in names
        }
        varying = {k: v for k, v in options.items() if len(set(map(repr, v))) > 1}
        yield dataset, records, varying


def _kind(options: Mapping[str, Sequence[Any]], at: int) -> tuple[Any, ...]:
    return tuple(values[at] for values in options.values())


def _rank(
    about: tuple[str, bool],
    records: list[Record],
    options: dict[str, list[Any]],
    columns: Sequence[str],
    targets: Sequence[str],
    draws: int,
    seed: int,
) -> Ranking:
    nan = dict.fromkeys(("acc_tr", "acc_te", "loss_tr", "loss_te"), math.nan)
    logs = [{**nan, **record.values} for record in records]
    goals = {
        name: np.array([TARGETS[name][1](log) for log in logs]) for name in targets
    }
    accuracy = np.array([log["acc_te"] for log in logs])
    distinct = group_equal(columns, [record.values for record in records])
    worth = Worth(accuracy, seed)
    rows = []
    for column, same in distinct.items():
        values = np.array([r.values.get(column, math.nan) for r in records])
        errors = np.nan_to_num([error_of(r.values, column) for r in records])
        for target, goal in goals.items():
            chosen = np.flatnonzero(np.isfinite(values) & np.isfinite(goal))
            part = {k: [v[at] for at in chosen] for k, v in options.items()}
            seeds = [records[at].seed for at in chosen]
            if len({_kind(part, at) for at in range(len(seeds))}) < _LEAST:
                continue
            order = Order(make_pairs(part, seeds), draws, seed)
            parts = parse_column(column)
            images = {images_of(records[at], column) for at in chosen} - {None}
            measured = values[chosen], errors[chosen], goal[chosen]
            found = order.statistics(*measured, accuracy[chosen])
            information, by_chance = order.information(*measured)
            regret = found["regret"]
            ends = [worth.images(x) for x in (regret.high, regret.low)]
            rows.append(
                Ranked(
                    parts.name,
                    parts.split,
                    column,
                    tuple(same),
                    target,
                    len(chosen),
                    order.pairs.configurations,
                    tuple(sorted(n for n in images if n is not None)),
                    found["tau"],
                    {name: found[f"by {name}"] for name in order.pairs.axes},
                    found["granulated"],
                    information,
                    by_chance,
                    {n: found[n] for n in ("mean", "quantile90", "worst")},
                    regret,
                    Ranged(worth.images(regret.value), *ends),
                )
            )
    kinds = {_kind(options, at) for at in range(len(records))}
    return Ranking(
        *about,
        len(records),
        len(kinds),
        {name: len(set(map(repr, values))) for name, values in options.items()},
        tuple(rows),
        worth.random,
        worth.regrets,
        draws,
        tuple(_warnings(records, len(kinds))),
    )


def _warnings(records: Sequence[Record], configurations: int) -> Iterable[str]:
    if configurations < FEW:
        yield (
            f"{configurations} configurations are few: from under {FEW}, intervals are "
            "wide, and hold the truth less often than they say"
        )
    losses = {record.recipe.loss for record in records}
    if len(losses) > 1:
        yield f"trained by different losses, {', '.join(sorted(losses))}"
        return
    name = "loss_tr" if all("loss_tr" in r.values for r in records) else "loss"
    trained = [r.values.get(name, math.nan) for r in records]
    trained = [value for value in trained if math.isfinite(value) and value > 0]
    if trained and max(trained) > 2 * min(trained):
        yield (
            f"trained to unlike losses, {name} from {min(trained):.3g} to "
            f"{max(trained):.3g}: a measure may order networks by how far they were "
            "trained (train with --until-loss)"
        )


class Worth:
    """The regret of choosing a network by its accuracy on held-out images.

    Each network's images are drawn by themselves, `k` of the binomial distribution of
    its test accuracy. On common images, as in practice, fewer are enough.
    """

    def __init__(self, accuracy: np.ndarray, seed: int, draws: int = 2000):
        """Draw it, for several numbers of images."""
        known = accuracy[np.isfinite(accuracy)]
        rng = np.random.default_rng(seed)
        self.random = float(known.max() - known.mean()) if len(known) else math.nan
        self.regrets: dict[int, float] = {}
        for images in _IMAGES if len(known) else ():
            right = rng.binomial(images, known, (draws, len(known)))
            # Of the best, any.
            chosen = np.argmax(right + rng.uniform(0, 0.5, right.shape), axis=1)
            self.regrets[images] = float((known.max() - known[chosen]).mean())

    def images(self, regret: float) -> float:
        """On how many images choosing has that regret, on a scale of logarithms."""
        if not math.isfinite(regret) or not self.regrets:
            return math.nan
        if regret >= self.random:
            return 0.0
        before, last = 1, self.random
        for images, value in self.regrets.items():
            if value <= regret:
                share = (last - regret) / (last - value) if last > value else 1.0
                return before * (images / before) ** share
            before, last = images, value
        return math.inf


class Order:
    """The statistics of order, and their bootstrap, of some networks."""

    def __init__(self, pairs: Pairs, draws: int, seed: int):
        """Draw configurations; measures are drawn for each."""
        self.pairs, self._seed = pairs, seed
        count = pairs.configurations
        rng = np.random.default_rng(seed)
        drawn = rng.multinomial(count, np.full(count, 1 / count), draws)
        self._counts = drawn

    def statistics(
        self,
        values: np.ndarray,
        errors: np.ndarray,
        goal: np.ndarray,
        accuracy: np.ndarray,
    ) -> dict[str, Ranged]:
        """Statistics over pairs and the regret, with their intervals.

        **Arguments:**

        - `values`, `errors`: a measure of each network, and its standard error.
        - `goal`: what it should order them by.
        - `accuracy`: on test images.
        """
        pairs = self.pairs
        rng = np.random.default_rng(self._seed + 1)
        y = pairs.signs(goal)
        ones = np.ones(pairs.configurations, int)
        whole = self._of(values, y, pairs.weights(ones), ones, accuracy)
        parts: list[dict[str, Numbers]] = []
        at_once = max(_AT_ONCE // max(len(pairs.first), 1), 1)
        for begin in range(0, len(self._counts), at_once):
            counts = self._counts[begin : begin + at_once]
            noise = rng.normal(size=(len(counts), pairs.networks))
            drawn = values + errors * noise
            parts.append(self._of(drawn, y, pairs.weights(counts), counts, accuracy))
        found = {}
        for name, value in whole.items():
            sample = np.concatenate([np.atleast_1d(part[name]) for part in parts])
            sample = sample[np.isfinite(sample)]
            if name in self._means:
                alone = self._alone(name, values, y)
                found[name] = _about(float(value), sample, alone, pairs.configurations)
            else:
                found[name] = _percentiles(float(value), sample)
        return found

    @property
    def _means(self) -> list[str]:
        return ["tau", "granulated", *(f"by {name}" for name in self.pairs.axes)]

    def _of(
        self,
        values: np.ndarray,
        y: np.ndarray,
        weights: np.ndarray,
        counts: np.ndarray,
        accuracy: np.ndarray,
    ) -> dict[str, Numbers]:
        pairs, x = self.pairs, self.pairs.signs(values)
        concord = x * y
        by_option = granulated(pairs, concord, weights)
        found = {f"by {name}": value for name, value in by_option.items()}
        found["tau"] = kendall(x, y, weights)
        # An option without a group in a draw is left out of that draw's mean.
        unknown = np.full_like(found["tau"], np.nan)
        table = np.stack([unknown, *by_option.values()])
        known = np.isfinite(table)
        with np.errstate(invalid="ignore"):
            found["granulated"] = np.where(known, table, 0.0).sum(0) / known.sum(0)
        found |= sign_errors(pairs, concord, weights)
        found["regret"] = _regret(values, counts[..., pairs.configuration], accuracy)
        return found

    def _alone(self, name: str, values: np.ndarray, y: np.ndarray) -> float:
        """What a pair of configurations by itself adds to the variance of a mean."""
        pairs, x = self.pairs, self.pairs.signs(values)
        share = np.zeros(len(y))
        axes = list(pairs.axes.values())
        if name == "tau":
            untied = np.abs(x).sum() * np.abs(y).sum()
            share += 1 / math.sqrt(untied) if untied else 0.0
        for chosen, weight in axes if name == "granulated" else ():
            share[chosen] += weight / weight.sum() / len(axes)
        if name.startswith("by "):
            chosen, weight = pairs.axes[name.removeprefix("by ")]
            share[chosen] = weight / weight.sum()
        centre = (share * x * y).sum() / share.sum() if share.any() else 0.0
        one, other = pairs.configuration[pairs.first], pairs.configuration[pairs.second]
        low, high = np.minimum(one, other), np.maximum(one, other)
        terms = np.where(one == other, 0.0, share * (x * y - centre))
        sums = np.bincount(low * pairs.configurations + high, terms)
        return float((sums**2).sum())

    def information(
        self, values: np.ndarray, errors: np.ndarray, goal: np.ndarray
    ) -> tuple[Ranged, float]:
        """The conditional information, and its mean for the values in random order."""
        pairs, y = self.pairs, self.pairs.signs(goal)
        rng = np.random.default_rng(self._seed + 2)
        ones = np.ones(pairs.configurations, int)
        all_ = pairs.weights(ones)
        value = conditional_information(pairs, pairs.signs(values), y, all_)
        draws, chance = [], []
        for counts in self._counts[: -(-len(self._counts) // _INFORMATION_SHARE)]:
            drawn = pairs.signs(values + errors * rng.normal(size=pairs.networks))
            weights = pairs.weights(counts)
            draws.append(conditional_information(pairs, drawn, y, weights))
            shuffled = pairs.signs(rng.permutation(values))
            chance.append(conditional_information(pairs, shuffled, y, all_))
        found = _percentiles(value, np.array(draws)[np.isfinite(draws)])
        known = np.array(chance)[np.isfinite(chance)]
        return found, float(known.mean()) if len(known) else math.nan


def _regret(values: np.ndarray, counts: np.ndarray, accuracy: np.ndarray) -> Numbers:
    # Of networks that tie, the mean.
    there = (counts > 0) & np.isfinite(accuracy)
    known = np.where(there, accuracy, -np.inf)
    measure = np.where(there, values, np.inf)
    chosen = there & (measure == measure.min(-1, keepdims=True))
    mean = np.where(chosen, counts * np.where(there, accuracy, 0.0), 0.0).sum(-1)
    with np.errstate(invalid="ignore"):
        return known.max(-1) - mean / np.where(chosen, counts, 0).sum(-1)


def _percentiles(value: float, sample: np.ndarray) -> Ranged:
    if not len(sample):
        return Ranged(value)
    low, high = np.quantile(sample, (0.025, 0.975))
    return Ranged(value, float(low), float(high))


def _about(value: float, sample: np.ndarray, alone: float, count: int) -> Ranged:
    """The interval of a mean over pairs, from draws of `count` configurations.

    Drawn configurations count a pair by the product of how often its two are drawn. Of
    pairs that share one, that has the right covariance; the variance of a pair by
    itself it triples. So twice the latter is taken off, as in the variance for dyads
    of Fafchamps and Gubert (2007), J. Dev. Econ. 83, 326-350, but no more than leaves
    that of independent pairs. Of few configurations a variance is too small by about
    (1 - 1/n)^3, and known with n - 1 degrees of freedom.
    """
    if len(sample) < 2 or not math.isfinite(value):
        return Ranged(value)
    from scipy.special import stdtrit

    variance = max(float(sample.var(ddof=1)) - 2 * alone, alone)
    error = math.sqrt(variance * (1 - 1 / count) ** -3)
    half = float(stdtrit(count - 1, 0.975)) * error
    return Ranged(value, max(value - half, -1.0), min(value + half, 1.0))

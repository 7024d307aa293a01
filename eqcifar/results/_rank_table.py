"""Rankings as tables, for people and for programs."""

import math
from collections.abc import Iterable
from typing import Any

from ..fields import NOTHING
from ._pivot import TextTable
from ._rank import TARGETS, Ranged, Ranked, Ranking

_NOTES = (
    "tau: Kendall's tau-b over all pairs of networks, 1 where a larger measure goes "
    "with a larger {target} throughout. granulated: the mean over options of tau where "
    "only that option varies, whose columns follow.",
    "K: normalised conditional mutual information given two options, and by chance.",
    "sign error: share of pairs ordered wrongly where one option changes: mean, 90 % "
    "quantile, worst; 0.5 is chance.",
    "regret: test accuracy lost by taking the network of least measure, in points; "
    "worth: choosing by accuracy on so many held-out images loses as much.",
)


def ranking_tables(rankings: Iterable[Ranking]) -> list[TextTable]:
    """A table of each data set and target: a row for each measure and split.

    **Arguments:**

    - `rankings`: from `rank`.
    """
    return [
        _table(ranking, target, [row for row in ranking.rows if row.target == target])
        for ranking in rankings
        for target in dict.fromkeys(row.target for row in ranking.rows)
    ]


def _table(ranking: Ranking, target: str, rows: list[Ranked]) -> TextTable:
    options = [
        name for name in ranking.options if any(name in r.by_option for r in rows)
    ]
    columns = ["measure", "split", "networks", "tau", "granulated", *options]
    columns += ["K (chance)", "sign error", "regret", "worth"]
    whole = ranking.networks
    title = (
        f"{'SYNTHETIC images: ' if ranking.synthetic else ''}how measures order "
        f"{whole} networks ({ranking.configurations} configurations) of "
        f"{ranking.dataset} by {TARGETS[target][0]}; 95 % intervals of {ranking.draws} "
        "draws of configurations and measurements"
    )
    return TextTable(
        title,
        columns,
        [
            [
                " = ".join([row.measure, *row.same]),
                row.split,
                str(row.networks),
                _signed(row.tau),
                _signed(row.granulated),
                *(_plain(row.by_option.get(name)) for name in options),
                f"{_digits(row.information.value)} ({_digits(row.by_chance)})",
                " / ".join(_digits(each.value) for each in row.sign_error.values()),
                _points(row.regret),
                _images(row.worth),
            ]
            for row in rows
        ],
        [
            *(f"Warning: {text}." for text in ranking.warnings),
            *(
                note.format(target=TARGETS[target][0].partition(",")[0])
                for note in _NOTES
            ),
            _chosen(ranking),
        ],
    )


def _chosen(ranking: Ranking) -> str:
    parts = [f"{100 * ranking.random:.2f} points at random"]
    parts += [
        f"{100 * regret:.2f} by accuracy on {images} held-out images"
        for images, regret in ranking.validation.items()
        if images in (10, 100, 1000, 10_000)
    ]
    return f"Regret of choosing: {', '.join(parts)}."


def _digits(value: float) -> str:
    return NOTHING if math.isnan(value) else f"{value:.2f}"


def _plain(ranged: Ranged | None) -> str:
    return (
        NOTHING
        if ranged is None or math.isnan(ranged.value)
        else f"{ranged.value:+.2f}"
    )


def _signed(ranged: Ranged) -> str:
    if math.isnan(ranged.value):
        return NOTHING
    text = f"{ranged.value:+.2f}"
    if math.isnan(ranged.low):
        return text
    return f"{text} [{ranged.low:+.2f}, {ranged.high:+.2f}]"


def _points(ranged: Ranged) -> str:
    if math.isnan(ranged.value):
        return NOTHING
    low, high = 100 * ranged.low, 100 * ranged.high
    return f"{100 * ranged.value:.2f} [{low:.2f}, {high:.2f}]"


def _images(ranged: Ranged) -> str:
    if math.isnan(ranged.value):
        return NOTHING
    low, high = _count(ranged.low), _count(ranged.high)
    return f"{_count(ranged.value)} [{low}, {high}] images"


def _count(images: float) -> str:
    if math.isnan(images):
        return NOTHING
    return "over 10000" if math.isinf(images) else f"{images:.2g}".replace("e+0", "e")


def ranking_rows(rankings: Iterable[Ranking]) -> list[dict[str, Any]]:
    """A row for each data set, target, measure and split, in full precision.

    **Arguments:**

    - `rankings`: from `rank`.

    **Returns:**

    Rows that all have the same columns; `_low` and `_high` are ends of intervals, and
    `tau_OPTION` is tau where only that option varies.
    """
    rankings = list(rankings)
    options = dict.fromkeys(name for each in rankings for name in each.options)
    return [_row(ranking, row, options) for ranking in rankings for row in ranking.rows]


def _row(ranking: Ranking, row: Ranked, options: Iterable[str]) -> dict[str, Any]:
    numbers = {
        "tau": row.tau,
        "granulated": row.granulated,
        **{f"tau_{name}": row.by_option.get(name, _UNKNOWN) for name in options},
        "information": row.information,
        **{f"sign_error_{name}": each for name, each in row.sign_error.items()},
        "regret": row.regret,
        "worth": row.worth,
    }
    return {
        "dataset": ranking.dataset,
        "synthetic": ranking.synthetic,
        "target": row.target,
        "measure": row.measure,
        "split": row.split,
        "same": list(row.same),
        "networks": row.networks,
        "configurations": row.configurations,
        "images": list(row.images),
        "draws": ranking.draws,
        **{
            f"{name}{end}": value
            for name, each in numbers.items()
            for end, value in (
                ("", each.value),
                ("_low", each.low),
                ("_high", each.high),
            )
        },
        "information_by_chance": row.by_chance,
        "regret_at_random": ranking.random,
    }


_UNKNOWN = Ranged(math.nan)

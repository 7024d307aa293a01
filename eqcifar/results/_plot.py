import dataclasses
import math
import re
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ..errors import RunError, UsageError
from ..fields import show_field
from ..figures import (
    COLOURS,
    DASHES,
    MARKERS,
    add_legend,
    add_title,
    figure_style,
    new_figure,
    set_log,
)
from ..measures import unit
from ..storage import COLUMNS, read_log, read_sharpness_log
from ._cells import show_seeds
from ._columns import error_of, group_equal, images_of, parse_column, show_range
from ._records import Record
from ._statistics import Summary, summarise
from ._table import Group, Table, sharpness_columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


NAMES = {
    "acc": "training accuracy, augmented (share of images)",
    "acc_tr": "training accuracy (share of images)",
    "acc_tr_true": "training accuracy on true labels (share of images)",
    "acc_va": "validation accuracy (share of images)",
    "acc_te": "test accuracy (share of images)",
    "loss": "training loss, augmented (mean an image)",
    "loss_tr": "training loss (mean an image)",
    "loss_va": "validation loss (mean an image)",
    "loss_te": "test loss (mean an image)",
    "weight_norm": "norm of the weights",
    "gradient_norm": "norm of the gradient",
    "lr": "learning rate",
    "seconds": "time of an epoch (s)",
    "images_per_s": "speed (images / s)",
}


# Below, an interval of Kendall's tau spans most of what there is.
LEAST_ROWS = 6


def plot_all(
    table: Table,
    metrics: Sequence[str],
    measures: Sequence[str] | None = None,
    *,
    warn: Callable[[str], None] = warnings.warn,
) -> "dict[str, Figure]":
    """Draw metrics over the epochs, and against measures of sharpness.

    Of measures with the same numbers in all runs one is drawn, which names the others.

    **Arguments:**

    - `table`: from `tabulate`.
    - `metrics`: columns of `log.tsv` or `sharpness_log.tsv`.
    - `measures`: what to draw the metrics against; by default all measures, for the
        metrics that are not measures themselves.
    - `warn`: called with a line for each log that cannot be read.

    **Returns:**

    Matplotlib figures by name; a figure's label is its caption.

    **Raises:**

    `UsageError` without Matplotlib.
    """
    values = [record.values for group in table.groups for record in group.done]
    known = distinct_measures(table)
    figures: dict[str, Figure] = {}
    for metric, same in group_equal(metrics, values).items():
        same = known.get(metric, same)
        figures |= plot_curves(table, metric, same=same, warn=warn)
        against = known if measures is None and metric in COLUMNS else measures or ()
        for measure, others in group_equal(list(against), values).items():
            if measure != metric:
                same = known.get(measure, others)
                figures |= plot_against(table, measure, metric, same=same)
    return figures


def distinct_measures(table: Table) -> dict[str, list[str]]:
    """The measures of a table, and for each those with the same numbers."""
    try:
        measures = sharpness_columns([table])
    except UsageError:
        return {}
    values = [record.values for group in table.groups for record in group.done]
    return group_equal(measures, values)


def plot_curves(
    table: Table,
    metric: str,
    *,
    same: Sequence[str] = (),
    warn: Callable[[str], None] = warnings.warn,
) -> "dict[str, Figure]":
    """Draw a column of the logs against the epoch: means, and a band over the seeds.

    The band is one sample standard deviation to each side. A measure of sharpness,
    from `sharpness_log.tsv`, has bars too: the 95 % interval that its standard error
    gives. Each dataset has its own figure, and where that has more lines than can be
    told apart, each architecture.

    **Arguments:**

    - `table`: from `tabulate`.
    - `metric`: the column, of `log.tsv` or of `sharpness_log.tsv`.
    - `same`: columns with the same numbers, to be named beside it.
    - `warn`: called with a line for each log that cannot be read.

    **Returns:**

    Matplotlib figures by name; none where nothing was measured. A figure's label is
    its caption.

    **Raises:**

    `UsageError` without Matplotlib.
    """
    figures = {}
    for name, groups in _panels(table):
        curves = [(group, _curve(group.done, metric, warn)) for group in groups]
        curves = [(group, curve) for group, curve in curves if curve.points]
        if not curves:
            continue
        with figure_style():
            figure = _draw_curves(table, metric, name, groups, curves, same)
        figures[f"{metric} on {name}"] = figure
    return figures


def _draw_curves(
    table: Table,
    metric: str,
    name: str,
    groups: Sequence[Group],
    curves: "Sequence[tuple[Group, _Curve]]",
    same: Sequence[str],
) -> "Figure":
    figure = new_figure()
    axes = figure.subplots()
    add_title(axes, _title(table, name, [group for group, _ in curves]))
    _count_in_integers(axes)
    for index, (group, curve) in enumerate(curves):
        epochs, means = list(curve.points), [s.mean for s in curve.points.values()]
        style = {"color": COLOURS[index], "linestyle": DASHES[index]}
        # At other epochs for each line, so that markers do not hide another.
        each = (index, max(1, len(epochs) // 8)) if len(epochs) > 8 else 1
        label = _label(group, groups, curve.count)
        axes.plot(
            *(epochs, means),
            **style,
            label=label,
            marker=MARKERS[index],
            markersize=4,
            markevery=each,
        )
        bars = [1.96 * error for error in curve.errors.values()]
        if any(bar == bar for bar in bars):
            axes.errorbar(
                *(epochs, means),
                yerr=[0.0 if bar != bar else bar for bar in bars],
                color=COLOURS[index],
                linestyle="none",
                elinewidth=1,
                capsize=2,
            )
        stds = [0.0 if s.std != s.std else s.std for s in curve.points.values()]
        if any(stds):
            low = [mean - std for mean, std in zip(means, stds, strict=True)]
            high = [mean + std for mean, std in zip(means, stds, strict=True)]
            axes.fill_between(
                *(epochs, low, high), color=COLOURS[index], alpha=0.2, linewidth=0
            )
    values = [s.mean for _, curve in curves for s in curve.points.values()]
    if "acc" not in metric and min(values) > 0 and max(values) > 50 * min(values):
        set_log(axes, "y")
    axes.set_xlabel("epoch")
    axes.set_ylabel(textwrap.fill(_axis(table, metric, same), 36))
    add_legend(figure)
    figure.set_label(_caption(metric, same, [curve for _, curve in curves]))
    return figure


def _caption(metric: str, same: Sequence[str], curves: "Sequence[_Curve]") -> str:
    runs = show_range(curve.count for curve in curves)
    text = (
        f"{NAMES.get(metric, metric)} over the epochs; lines: means of n = {runs} runs"
    )
    several = any(curve.count > 1 for curve in curves)
    text += (
        ", bands: one sample standard deviation to each side"
        if several
        else ", without a band: a single run tells no spread"
    )
    if any(error == error for curve in curves for error in curve.errors.values()):
        images = show_range(n for curve in curves for n in curve.images)
        text += f", bars: 95 % intervals of measuring on {images} images"
    return f"{text}.{_equal(same)}"


def _spelled_out(metric: str) -> str:
    name = NAMES.get(metric)
    return metric if name is None else f"{name[0].upper()}{name[1:]}"


def _equal(same: Sequence[str]) -> str:
    return f" {', '.join(same)}: the same numbers in these runs." if same else ""


def plot_against(
    table: Table, measure: str, metric: str, *, same: Sequence[str] = ()
) -> "dict[str, Figure]":
    """Draw one number of each run against another, with horizontal 95 % intervals.

    With 6 rows of the table or more, the title has Kendall's rank correlation of their
    means, which are independent as the runs of one row are not, and its 95 % interval
    (Fieller, Hartley and Pearson 1957).

    **Arguments:**

    - `table`: from `tabulate`.
    - `measure`: the number drawn to the right, such as a trace; its standard error is
        taken from `<measure>_se`.
    - `metric`: the number drawn upwards.
    - `same`: measures with the same numbers, to be named beside it.

    **Returns:**

    Matplotlib figures by name, one a dataset; none where no two runs differ in the
    measure. A figure's label is its caption.

    **Raises:**

    `UsageError` without Matplotlib.
    """
    figures = {}
    for name, groups in _panels(table):
        drawn = [list(_points(group, measure, metric)) for group in groups]
        points = [point for part in drawn for point in part]
        # One point, or points above each other, show nothing.
        if len({x for x, _, _ in points}) < 2:
            continue
        with figure_style():
            figure = new_figure()
            axes = figure.subplots()
            for index, (group, part) in enumerate(zip(groups, drawn, strict=True)):
                if not part:
                    continue
                x, y, error = zip(*part, strict=True)
                axes.errorbar(
                    x,
                    y,
                    xerr=[1.96 * e for e in error] if any(error) else None,
                    label=_label(group, groups, len(part)),
                    color=COLOURS[index],
                    marker=MARKERS[index],
                    linestyle="none",
                    elinewidth=1,
                )
            x = [x for x, _, _ in points]
            if min(x) > 0 and max(x) > 20 * min(x):
                set_log(axes, "x")
            means = [
                [math.fsum(a) / len(a) for a in zip(*p, strict=True)]
                for p in drawn
                if p
            ]
            title = _title(table, name, groups)
            add_title(axes, f"{title}{_rank_correlation(means)}")
            axes.set_xlabel(textwrap.fill(_axis(table, measure, same), 52))
            axes.set_ylabel(textwrap.fill(_axis(table, metric), 36))
            add_legend(figure)
        known = any(error for _, _, error in points)
        bars = (
            "bars: 95 % intervals of measuring"
            if known
            else "without intervals: no standard error was measured"
        )
        images = show_range(
            images_of(record, measure) for group in groups for record in group.done
        )
        figure.set_label(
            f"{_spelled_out(metric)} against {measure}"
            f"{f' on {images} images' if images else ''}; a point is a run, "
            f"n = {len(points)}; {bars}.{_equal(same)}"
        )
        figures[f"{metric} against {measure} on {name}"] = figure
    return figures


def _title(table: Table, name: str, groups: Iterable[Group]) -> str:
    common = {k: v for k, v in table.common.items() if k not in ("arch", "dataset")}
    width = f", width {show_field(common['width'])}" if "width" in common else ""
    seeds = show_seeds([record.seed for group in groups for record in group.done])
    mark = "SYNTHETIC: " if table.synthetic else ""
    several = "s" if re.search("[-,]", seeds) else ""
    return f"{mark}{name}{width}, seed{several} {seeds}"


def _axis(table: Table, column: str, same: Sequence[str] = ()) -> str:
    if column in NAMES:
        return NAMES[column]
    if column in COLUMNS:
        return column
    # What measures mean is told by a package that needs JAX.

    parts = parse_column(column)
    losses = {group.records[0].recipe.loss for group in table.groups}
    loss = parts.loss or (losses.pop() if len(losses) == 1 else "loss")
    of = unit(parts.base, loss)
    name = " = ".join(parse_column(other).name for other in (column, *same))
    return f"{name}, {parts.split} images{f' ({of})' if of else ''}"


def _panels(table: Table) -> Iterator[tuple[str, list[Group]]]:
    most = len(COLOURS)
    for name, groups in _split(table.groups, "dataset"):
        if len(groups) <= most:
            yield name, groups
            continue
        for arch, part in _split(groups, "arch"):
            pieces = [part[i : i + most] for i in range(0, len(part), most)]
            for number, piece in enumerate(pieces, start=1):
                of = f" ({number} of {len(pieces)})" if len(pieces) > 1 else ""
                yield f"{name}, {arch}{of}", piece


def _split(groups: Iterable[Group], field: str) -> Iterator[tuple[str, list[Group]]]:
    parts: dict[str, list[Group]] = {}
    for group in groups:
        parts.setdefault(str(group.fields.get(field, "all")), []).append(group)
    yield from parts.items()


def _count_in_integers(axes: "Axes"):
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _label(group: Group, others: Sequence[Group], count: int) -> str:
    parts = []
    for name, value in group.fields.items():
        if name == "arch":
            parts.append(str(value))
        elif len({other.fields[name] for other in others}) > 1:
            parts.append(f"{name} {show_field(value)}")
    return f"{', '.join(parts) or 'all'} (n = {count})"


@dataclasses.dataclass(frozen=True)
class _Curve:
    """Means over runs by epoch, their errors of measuring, and the images measured."""

    points: Mapping[int, Summary]
    errors: Mapping[int, float]
    images: frozenset[int]
    count: int


def _curve(
    records: Iterable[Record], metric: str, warn: Callable[[str], None]
) -> _Curve:
    values: dict[int, list[float]] = {}
    squares: dict[int, list[float]] = {}
    images, count = set(), 0
    for record in records:
        try:
            rows = _rows(record, metric)
        except RunError as error:
            warn(f"left out of the curves: {error}")
            continue
        found = False
        for epoch, row in rows.items():
            value, error = float(row.get(metric, math.nan)), error_of(row, metric)
            if math.isfinite(value):
                found = True
                values.setdefault(epoch, []).append(value)
                if math.isfinite(error):
                    squares.setdefault(epoch, []).append(error**2)
                    end = parse_column(metric).end
                    images.add(int(row.get(f"examples{end}", 0)))
        count += found
    return _Curve(
        {epoch: summarise(values[epoch]) for epoch in sorted(values)},
        {
            epoch: math.sqrt(math.fsum(squares[epoch])) / len(squares[epoch])
            if epoch in squares
            else math.nan
            for epoch in sorted(values)
        },
        frozenset(images),
        count,
    )


def _rows(record: Record, metric: str) -> Mapping[int, Mapping[str, int | float]]:
    rows = {int(row["epoch"]): row for row in read_log(record.path / "log.tsv")}
    if any(metric in row for row in rows.values()):
        return rows
    return read_sharpness_log(record.path / "sharpness_log.tsv")


def _points(
    group: Group, measure: str, metric: str
) -> Iterator[tuple[float, float, float]]:
    for record in group.done:
        x = record.values.get(measure, math.nan)
        y = record.values.get(metric, math.nan)
        error = error_of(record.values, measure)
        if math.isfinite(x) and math.isfinite(y):
            yield x, y, error if math.isfinite(error) else 0.0


def rank_correlation(
    x: Sequence[float], y: Sequence[float]
) -> tuple[float, float, float]:
    """Kendall's tau of independent pairs, and its 95 % interval.

    On Fisher's scale, artanh tau, the variance is .437 / (n - 4): Fieller, Hartley and
    Pearson (1957), Biometrika 44, 470-481.
    """
    from scipy.stats import kendalltau

    tau = float(kendalltau(x, y).statistic)  # pyright: ignore
    if abs(tau) == 1 or len(x) <= 4:
        return tau, math.nan, math.nan
    half = 1.96 * math.sqrt(0.437 / (len(x) - 4))
    return tau, math.tanh(math.atanh(tau) - half), math.tanh(math.atanh(tau) + half)


def _rank_correlation(means: Sequence[Sequence[float]]) -> str:
    x, y, _ = zip(*means, strict=True)
    if len(x) < LEAST_ROWS or len(set(x)) < 3 or len(set(y)) < 3:
        return ""
    tau, low, high = rank_correlation(x, y)
    if math.isnan(low):
        return ""
    return f"\nKendall's τ of {len(x)} rows' means: {tau:.2f} [{low:.2f}, {high:.2f}]"

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ..errors import RunError
from ._fields import show_field
from ._figure import COLOURS, DASHES, MARKERS, add_legend, new_figure
from ._log import read_log
from ._records import Record
from ._statistics import Summary, summarise
from ._table import Group, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = {
    "acc": "training accuracy, augmented",
    "acc_tr": "training accuracy",
    "acc_va": "validation accuracy",
    "acc_te": "test accuracy",
    "loss": "training loss, augmented",
    "loss_tr": "training loss",
    "loss_va": "validation loss",
    "loss_te": "test loss",
    "weight_norm": "norm of the weights",
    "gradient_norm": "norm of the gradient",
    "lr": "learning rate",
}


def plot_curves(
    table: Table, metric: str, *, warn: Callable[[str], None] = warnings.warn
) -> "dict[str, Figure]":
    """Draw a column of the logs against the epoch: means, and a band over the seeds.

    The band is one sample standard deviation to each side. Each dataset has its own
    figure, and where that has more lines than can be told apart, each architecture.

    **Arguments:**

    - `table`: from `tabulate`.
    - `metric`: the column.
    - `warn`: called with a line for each log that cannot be read.

    **Returns:**

    Matplotlib figures by name; none where nothing was measured.

    **Raises:**

    `UsageError` without Matplotlib.
    """
    figures = {}
    for name, groups in _panels(table):
        curves = [(group, _curve(group.done, metric, warn)) for group in groups]
        curves = [(group, curve) for group, curve in curves if curve]
        if not curves:
            continue
        figure, axes = new_figure(table, name)
        _count_in_integers(axes)
        for index, (group, curve) in enumerate(curves):
            epochs = list(curve)
            means = [summary.mean for summary in curve.values()]
            axes.plot(
                epochs,
                means,
                label=_label(group, groups, len(group.done)),
                color=COLOURS[index],
                linestyle=DASHES[index],
                marker=MARKERS[index],
                markersize=4,
                # At other epochs for each line, so that markers do not hide another.
                markevery=(index, max(1, len(epochs) // 8)) if len(epochs) > 8 else 1,
            )
            stds = [0.0 if s.std != s.std else s.std for s in curve.values()]
            low = [mean - std for mean, std in zip(means, stds, strict=True)]
            high = [mean + std for mean, std in zip(means, stds, strict=True)]
            if any(stds):
                axes.fill_between(
                    epochs, low, high, color=COLOURS[index], alpha=0.2, linewidth=0
                )
        values = [s.mean for _, curve in curves for s in curve.values()]
        if "acc" not in metric and min(values) > 0 and max(values) > 50 * min(values):
            axes.set_yscale("log")
        axes.set_xlabel("epoch")
        axes.set_ylabel(NAMES.get(metric, metric))
        add_legend(figure)
        figures[f"{metric} on {name}"] = figure
    return figures


def plot_against(table: Table, measure: str, metric: str) -> "dict[str, Figure]":
    """Draw one number of each run against another, with horizontal standard errors.

    Kendall's rank correlation of the runs shown stands in the title.

    **Arguments:**

    - `table`: from `tabulate`.
    - `measure`: the number drawn to the right, such as a trace; its standard error is
        taken from `<measure>_se`.
    - `metric`: the number drawn upwards.

    **Returns:**

    Matplotlib figures by name, one a dataset; none where no two runs differ in the
    measure.

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
        figure, axes = new_figure(table, name)
        for index, (group, part) in enumerate(zip(groups, drawn, strict=True)):
            if not part:
                continue
            x, y, error = zip(*part, strict=True)
            axes.errorbar(
                x,
                y,
                xerr=error if any(error) else None,
                label=_label(group, groups, len(part)),
                color=COLOURS[index],
                marker=MARKERS[index],
                linestyle="none",
                elinewidth=1,
            )
        x, y, _ = zip(*points, strict=True)
        if min(x) > 0 and max(x) > 20 * min(x):
            axes.set_xscale("log")
        axes.set_title(f"{axes.get_title()}{_rank_correlation(x, y)}")
        axes.set_xlabel(measure)
        axes.set_ylabel(NAMES.get(metric, metric))
        add_legend(figure)
        figures[f"{metric} against {measure} on {name}"] = figure
    return figures


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
    return f"{', '.join(parts) or 'all'} ({count})"


def _curve(
    records: Iterable[Record], metric: str, warn: Callable[[str], None]
) -> Mapping[int, Summary]:
    values: dict[int, list[float]] = {}
    for record in records:
        try:
            rows = {row["epoch"]: row for row in read_log(record.path / "log.tsv")}
        except RunError as error:
            warn(f"left out of the curves: {error}")
            continue
        for epoch, row in rows.items():
            value = row.get(metric, math.nan)
            if math.isfinite(value):
                values.setdefault(int(epoch), []).append(value)
    return {epoch: summarise(values[epoch]) for epoch in sorted(values)}


def _points(
    group: Group, measure: str, metric: str
) -> Iterator[tuple[float, float, float]]:
    for record in group.done:
        x = record.values.get(measure, math.nan)
        y = record.values.get(metric, math.nan)
        error = record.values.get(f"{measure}_se", 0.0)
        if math.isfinite(x) and math.isfinite(y):
            yield x, y, error if math.isfinite(error) else 0.0


def _rank_correlation(x: Sequence[float], y: Sequence[float]) -> str:
    if len(set(x)) < 3 or len(set(y)) < 3:
        return ""
    from scipy.stats import kendalltau

    tau, _ = kendalltau(x, y)
    return f" (Kendall's τ = {tau:.2f}, {len(x)} runs)"

"""The page on SAM, MixUp and wrong labels, and its picture, from their tables."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eqcifar.figures import (
    COLOURS,
    DASHES,
    MARKERS,
    add_legend,
    new_figure,
)
from eqcifar.results import Summary, WelchTest, summarise, welch
from eqcifar.sweeps import Grid

from . import tables
from .tables import DATA, HERE, Row, how_made, markdown, read_about, read_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SAMPLES = 250
FIELDS = "label_noise", "sam", "mixup", "epochs", "seed"
MEASURES = "lmax", "tr_hess", "tr_ggn"
# What the page calls a run, by its radius, its MixUp and its epochs over the fewest.
METHODS = {
    "SGD": (0.0, 0.0, 1),
    "SGD, twice the epochs": (0.0, 0.0, 2),
    "SAM": (0.1, 0.0, 1),
    "MixUp": (0.0, 1.0, 1),
}

_ALT = "Training and test accuracy along training, for SGD, SAM and MixUp"
_CAPTION = (
    "Lines are means over seeds, n as in the tables, and bands reach from the lowest "
    "seed to the highest, where there is more than one: the accuracy on training "
    "images against the labels that training is given, and against the true ones, and "
    "on test images."
)
_RIGHT_NOTE = (
    "Gradients are in units of those of SGD's epochs: a step of SAM takes two. ± is "
    "half of Student's 95 % interval of the mean over seeds; an interval after a "
    "difference or a ratio is Welch's, of ratios between logarithms."
)
_WRONG_NOTE = (
    "Accuracies on training images: on the labels that training is given, and on the "
    "true ones. A network that had learnt the given labels alone would have the share "
    "of right labels on the true ones."
)
_LIMITS = (
    "One small network, a tenth of the images, no augmentation, one radius of SAM and "
    "one parameter of MixUp, neither of them tuned for each share of wrong labels. All "
    "seeds share the images and the wrong labels. The JPEG copy is close to CIFAR-10 "
    "but not its pixels: accuracies do not stand beside published ones. λ_max and "
    f"traces are of the loss of {SAMPLES} training images in inference mode, the same "
    "for all runs, so that intervals over seeds leave out what other images would give"
)


def select(rows: Iterable[Row], method: str, noise: float) -> list[Row]:
    """The rows of a method with so many wrong labels."""
    rows = list(rows)
    fewest = min(row["epochs"] for row in rows)
    sam, mixup, times = METHODS[method]
    wanted = noise, sam, mixup, times * fewest
    names = "label_noise", "sam", "mixup", "epochs"
    return [row for row in rows if tuple(row[name] for name in names) == wanted]


def write_page():
    """Write the page and its picture."""
    tables.write_page("sam", made_page(), lambda: draw(read_table("sam_curves")))


def made_page() -> str:
    """The page that the tables in `study/results` make."""
    about = read_about("sam")
    return page(read_table("sam_runs"), read_table("sam_curves"), about)


def page(runs: Sequence[Row], curves: Sequence[Row], about: Mapping[str, Any]) -> str:
    """The page, from the tables."""
    parts = [
        "# SAM, MixUp and wrong labels",
        "<!-- Made by `python -m study.sam page`: edit that. -->",
        _answer(runs, curves),
        f"![{_ALT}](sam.svg)",
        _CAPTION,
        "## Right labels",
        markdown(_right(runs)),
        _RIGHT_NOTE,
        "## Wrong labels",
        markdown(_wrong(runs, curves)),
        _WRONG_NOTE,
        "## Method",
        _method(runs, about),
        "## Limits",
        _LIMITS + _errors(runs),
    ]
    return "\n\n".join(parts) + "\n"


def _answer(runs: Sequence[Row], curves: Sequence[Row]) -> str:
    def of(method, noise=0.0):
        return select(runs, method, noise)

    def gain(other):
        return points(welch(column(of("SAM"), "acc_te"), column(of(other), "acc_te")))

    def times(name):
        return ratio(of("SAM"), of("SGD"), name)

    worst = max(row["label_noise"] for row in runs)
    best, end = peak(curves, "SGD", worst), of("SGD", worst)
    lines = [
        f"- Test accuracy of SAM less that of SGD: {gain('SGD')} at the same epochs, "
        f"{gain('SGD, twice the epochs')} at the same number of gradients.",
        f"- With {worst:.0%} of the labels wrong, SGD memorises them: it ends with "
        f"{percent(end, 'acc_tr')} of the given labels and "
        f"{percent(end, 'acc_tr_true')} of the true ones, and test accuracy falls from "
        f"{percent(best, 'acc_te')} in epoch {best[0]['epoch']:.0f} to "
        f"{percent(end, 'acc_te')}.",
    ]
    if column(of("SAM"), "lmax") and column(of("SGD"), "lmax"):
        lines.insert(
            1,
            f"- λ_max of SAM over that of SGD at the same epochs: {times('lmax')}; "
            f"tr H: {times('tr_hess')}; training loss: {times('loss_tr')}. Near "
            "interpolation the curvature of the cross-entropy falls with the loss "
            "itself, so that this is no comparison at equal loss.",
        )
    return "\n".join(lines)


def _method(runs: Sequence[Row], about: Mapping[str, Any]) -> str:
    data = DATA.get(about["data"], about["data"])
    planned = len(Grid.read(HERE / "sam.toml").configs())
    where = "; ".join([about["hardware"], *about["versions"]])
    command = "make study DATA=FOLDER    # of the images, or a name on the hub"
    return (
        f"{len(runs)} of the {planned} runs of `study/sam.toml` on {data}, whose other "
        f"options are the defaults of `eqcifar train`; the command goes on with the "
        f"others. {where}.\n\n{how_made(['sam'], command)}"
    )


def _errors(runs: Sequence[Row]) -> str:
    """What one measurement may err by, of the median run."""
    words = []
    for name, title in zip(MEASURES, ("λ_max", "tr H", "tr GGN"), strict=True):
        rows = [row for row in runs if not math.isnan(row[name])]
        if rows:
            share = statistics.median(row[f"{name}_se"] / row[name] for row in rows)
            words.append(f"{share:.0%} of {title}")
    errors = f": a standard error of {', '.join(words)} (medians)" if words else ""
    return f"{errors}."


def column(rows: Iterable[Row], name: str) -> list[float]:
    """The numbers of a column that are there."""
    return [row[name] for row in rows if not math.isnan(row[name])]


def peak(curves: Sequence[Row], method: str, noise: float) -> list[Row]:
    """The rows of the epoch at which the mean test accuracy is the highest."""
    rows = select(curves, method, noise)
    epochs = sorted({row["epoch"] for row in rows})
    at = {epoch: [row for row in rows if row["epoch"] == epoch] for epoch in epochs}
    best = max(epochs, key=lambda e: summarise(column(at[e], "acc_te")).mean)
    return at[best]


def half_interval(found: Summary, level: float = 0.95) -> float:
    """Half of Student's interval of a mean; nan of fewer than two numbers."""
    from scipy.special import stdtrit

    if found.count < 2:
        return math.nan
    quantile = float(stdtrit(found.count - 1, 0.5 + level / 2))
    return quantile * found.std / math.sqrt(found.count)


def percent(rows: Iterable[Row], name: str) -> str:
    """The mean of shares."""
    mean = summarise(column(rows, name)).mean
    return "" if math.isnan(mean) else f"{100 * mean:.1f} %"


def with_interval(rows: Iterable[Row], name: str, scale: float = 1.0) -> str:
    """The mean, and half its interval over seeds."""
    found = summarise(scale * x for x in column(rows, name))
    if not found.count:
        return ""
    half = half_interval(found)
    digits = 1 if abs(found.mean) < 100 else 0
    around = "" if math.isnan(half) else f" ± {half:.{digits}f}"
    return f"{found.mean:.{digits}f}{around}"


def points(found: WelchTest) -> str:
    """A difference of shares, in points, and its interval."""
    effect, low, high = (100 * x for x in (found.effect, found.low, found.high))
    around = "" if math.isnan(low) else f" ({low:+.1f} to {high:+.1f})"
    return f"{effect:+.1f} points{around}"


def ratio(rows: Sequence[Row], others: Sequence[Row], name: str) -> str:
    """The ratio of geometric means, and its interval."""
    ours, theirs = (
        [math.log(x) for x in column(each, name)] for each in (rows, others)
    )
    found = welch(ours, theirs)
    effect, low, high = (math.exp(x) for x in (found.effect, found.low, found.high))
    around = "" if math.isnan(low) else f" ({low:.2f} to {high:.2f})"
    return f"{effect:.2f}{around}"


def _right(runs: Sequence[Row]) -> Iterable[Sequence[str]]:
    yield (
        "",
        "gradients",
        "n",
        "training accuracy, %",
        "test accuracy, %",
        "training loss, 0.001",
        "λ_max",
        "tr H",
        "tr GGN",
    )
    fewest = min(row["epochs"] for row in runs)
    for method, (sam, _, times) in METHODS.items():
        rows = select(runs, method, 0.0)
        gradients = times * fewest * (2 if sam else 1) / fewest
        cells = [method, f"{gradients:.0f}", str(len(rows))]
        cells += [with_interval(rows, name, 100) for name in ("acc_tr", "acc_te")]
        cells.append(with_interval(rows, "loss_tr", 1000))
        yield [*cells, *(with_interval(rows, name) for name in MEASURES)]


def _wrong(runs: Sequence[Row], curves: Sequence[Row]) -> Iterable[Sequence[str]]:
    yield (
        "wrong labels",
        "",
        "n",
        "given labels, %",
        "true labels, %",
        "test at its best, %",
        "test at the end, %",
    )
    for noise in sorted({row["label_noise"] for row in runs}):
        for method in METHODS:
            rows = select(runs, method, noise)
            if not rows:
                continue
            true = "acc_tr_true" if noise else "acc_tr"
            best = peak(curves, method, noise)
            yield (
                f"{noise:.0%}",
                method,
                str(len(rows)),
                with_interval(rows, "acc_tr", 100),
                with_interval(rows, true, 100),
                f"{with_interval(best, 'acc_te', 100)} (epoch {best[0]['epoch']:.0f})",
                with_interval(rows, "acc_te", 100),
            )


def draw(curves: Sequence[Row]) -> "Figure":
    """Accuracy along training: a column for each share of wrong labels."""
    figure = new_figure()
    noises = sorted({row["label_noise"] for row in curves})
    figure.set_size_inches(7.4, 7.0)
    grid = figure.subplots(3, len(noises), sharex=True, sharey="row", squeeze=False)
    for noise, panels in zip(noises, grid.T, strict=True):
        panels[0].set_title(f"{noise:.0%} of labels wrong" if noise else "right labels")
        names = "acc_tr", "acc_tr_true" if noise else "acc_tr", "acc_te"
        for index, method in enumerate(m for m, of in METHODS.items() if of[2] == 1):
            rows = select(curves, method, noise)
            for axes, name in zip(panels, names, strict=True):
                # Or the legend would tell each line once for all axes.
                label = method if axes is grid[0, 0] else None
                _draw_curve(axes, rows, name, index, label)
        panels[-1].set_xlabel("epoch")
    parts = "training,\ngiven labels", "training,\ntrue labels", "test"
    for axes, part in zip(grid[:, 0], parts, strict=True):
        axes.set_ylabel(f"{part} (% right)")
    add_legend(figure)
    return figure


def _draw_curve(
    axes: "Axes", rows: Sequence[Row], name: str, index: int, label: str | None
):
    epochs = sorted({row["epoch"] for row in rows})
    values = [[100 * r[name] for r in rows if r["epoch"] == each] for each in epochs]
    axes.plot(
        epochs,
        [summarise(each).mean for each in values],
        color=COLOURS[index],
        linestyle=DASHES[index],
        marker=MARKERS[index],
        markersize=4,
        markevery=(index, 3),
        label=label,
    )
    low, high = [min(each) for each in values], [max(each) for each in values]
    axes.fill_between(epochs, low, high, color=COLOURS[index], alpha=0.2, linewidth=0)

"""Write the pages of `docs/measurements/` from the results that are kept.

python -m benchmarks tables
"""

import dataclasses
from collections import defaultdict
from pathlib import Path
from typing import Any

from .shared import Row, parser, records

PAGES = Path(__file__).parent.parent / "docs" / "measurements"
SHARES = (
    "coverage",
    "test accuracy",
    "within the tolerance",
    "relative standard error",
)


@dataclasses.dataclass(frozen=True)
class Section:
    """A table, and what it says in at most three sentences.

    - `results`: the results that it shows.
    - `having`: words of which one is in the name of each row; by default all rows.
    - `across`: where the names of rows are split, to make their first (": ") or last
        (", ", ": last") parts columns; then one unit is shown.
    - `unit`: which, or of all one.
    - `merged`: one table of all results, wherever they are from.
    """

    title: str
    says: str
    results: tuple[str, ...]
    having: tuple[str, ...] = ("",)
    across: str = ""
    unit: str = ""
    merged: bool = False


TRAINING = [
    Section(
        "Recipes",
        "Test accuracy after a whole recipe and the time that its epochs took. The "
        "interval is Wilson's for the test images where one seed was trained, and the "
        "range over seeds where there are more.",
        ("recipe_cpu", "recipe_gpu"),
    ),
    Section(
        "Memory of a step",
        "What `eqcifar train` prints and keeps: the peak as XLA plans it, and the most "
        "that was in use on the card, of which JAX was given 7.2 GB.",
        ("memory_gpu",),
    ),
]
SPEED = [
    Section(
        "Beside PyTorch",
        "The whole step of a recipe in both (crop, flip, forward, backward, L2, "
        "clipping, momentum), and the evaluation of a split, in turns on one machine. "
        "A ratio above 1 is for eqcifar. Both start from the same weights; the first "
        "gradient's difference is what rounding makes of it.",
        ("compare_cpu", "compare_gpu"),
    ),
    Section(
        "What makes networks quick on CPUs",
        "The library as it is beside itself with one thing taken away: above 1, what "
        "was taken away is worth having.",
        ("cpu_ablation",),
    ),
    Section(
        "Start",
        "Seconds from the start of a process. `cold` has empty caches of images and "
        "compiled programs, `warm` those that a cold start left.",
        ("startup", "startup_training"),
    ),
    Section(
        "Reading many runs",
        "`eqcifar tabulate`, from the start of the process to its end; it imports "
        "neither JAX nor NumPy.",
        ("tabulate",),
    ),
]
SHARPNESS = [
    Section(
        "Cost at the same standard error",
        "tr H and tr NTK of a split of images, for a trained VGG11 (579,786 "
        "parameters): eqcifar passes over it once with one random output vector an "
        "image. A product of the peers is timed on a sample in turns, and multiplied "
        "up to the split and to the number of products that the measured variance of a "
        "random direction asks for; this number is good to about a third.",
        ("sharpness_cost",),
    ),
    Section(
        "Cost of a pass",
        "In gradients of the same images, with one output vector an image or a random "
        "direction. With gradients formed, each image's own is made and squared; the "
        "general path, where logits are curved in the parameters, is a jvp of a jvp.",
        ("sharpness_passes",),
    ),
    Section(
        "Where the time of a probe goes",
        "What each part adds, in gradients of the same images: differences of medians "
        "of passes with and without it.",
        ("sharpness_profile",),
    ),
    Section(
        "Beside other packages, measured",
        "One trained network at full width in float32, the same images, one run; each "
        "package in a process of its own. Traces to the standard error that is "
        "named, of the random vectors, and their difference from the exact value; "
        "`eqcifar` takes random output vectors, the others random directions.",
        ("sharpness_packages",),
    ),
    Section(
        "A product in gradients",
        "The Hessian and the Gauss-Newton matrix times a vector as multiples of the "
        "same package's gradient of the same images, in turns; median and range.",
        ("sharpness_products",),
    ),
    Section(
        "Agreement with other packages",
        "Float64, copied weights, the same images and signs. PyHessian's power "
        "iteration adds 1e-6 to each norm that it divides by.",
        ("sharpness_agreement",),
    ),
]
COVERAGE = [
    Section(
        "Means over images",
        "How often 95 % intervals of traces hold the value over all 1,000 images. One "
        "probe alone cannot tell its own error from that of the images, so its "
        "interval is wider than needed.",
        ("coverage",),
        ("ggn_ce", "ntk", "hess"),
        ": ",
        "coverage",
    ),
    Section(
        "Traces by matrix products",
        "How often 95 % intervals hold the trace of one matrix.",
        ("coverage",),
        ("products",),
        ": ",
        "coverage",
    ),
    Section(
        "Cosines and trace ratios of two splits",
        "How often the jackknife's 95 % intervals over common probes hold the value "
        "for the same images. Near 1 a cosine's error is skewed, and intervals are too "
        "short.",
        ("coverage",),
        ("cosine", "trace ratio"),
        ": ",
        "coverage",
    ),
    Section(
        "Stopping at a tolerance",
        "How often the value is within the relative tolerance at which the estimator "
        "stopped by itself.",
        ("coverage",),
        ("stopped",),
        ": ",
        "within the tolerance",
    ),
    Section(
        "Eigenvalues and the NTK's spectrum",
        "How often 95 % intervals from some images hold the value over all 4,000.",
        ("coverage_fitted",),
        ("eigenvalue", "_ntk"),
        ": ",
        "coverage",
    ),
    Section(
        "Rises of the loss",
        "The same for rises of the loss: along the worst direction of the images at "
        "hand (SAM), along random directions, along a fixed line. SAM's interval and "
        "that of few directions do not hold nominally.",
        ("coverage_fitted",),
        ("rise",),
        ": ",
        "coverage",
    ),
    Section(
        "Bias of the worst rise",
        "The mean of the corrected value over the value for all images, less 1. Halves "
        "show the bias in part alone where gradients are small.",
        ("coverage_fitted",),
        ("worst rise",),
        ": ",
        "relative bias",
    ),
    Section(
        "Calibration error",
        "How often the 95 % interval of the expected calibration error holds the "
        "truth, for two laws of confidence and patterns of miscalibration.",
        ("calibration",),
        ("",),
        ", ",
        "coverage",
    ),
]
IMPORTED = [
    Section(
        "Networks of PyTorch here and there",
        "Networks that the code of these repositories makes, after two steps of "
        "training there, imported by `eqcifar import`; the largest difference over "
        "some images, as a part of the largest value, in float64.",
        ("imported",),
        across=": last",
    ),
    Section(
        "Public weights in both",
        "The same file, the same images. The trace in PyTorch is that of each image's "
        "Jacobian, in float64; here it is taken in float32. The accuracy that "
        "is published with the weights, 91.7 %, is of images without JPEG.",
        ("imported_weights",),
        across=": last",
    ),
]
RELIABILITY = [
    Section(
        "Faults",
        "`Lost` counts what was saved and is gone, `silently wrong` what differs from "
        "an undisturbed run: to the bit, and to rounding where several processes share "
        "it. The control is a writer that is not atomic, which the suite has to "
        "notice. Where there is one try, the row shows that it works, not that it "
        "always does.",
        ("faults",),
        merged=True,
    ),
    Section(
        "Strangers' files and places",
        "What is damaged, edited, forged or made to harm ends in the right numbers or "
        "in one clear line: `lost` counts tracebacks, code run and connections opened, "
        "`silently wrong` what was taken for what it is not.",
        ("strangers",),
    ),
]
TITLES: dict[str, tuple[str, list[Section]]] = {
    "training": ("Training", TRAINING),
    "speed": ("Speed", SPEED),
    "sharpness": ("Sharpness: cost and agreement", SHARPNESS),
    "imported": ("Networks from elsewhere", IMPORTED),
    "coverage": ("Coverage of intervals", COVERAGE),
    "reliability": ("Reliability", RELIABILITY),
}


def main(argv: list[str]):
    """Write every page."""
    parser(__doc__).parse_args(argv)
    PAGES.mkdir(exist_ok=True)
    for name, text in pages().items():
        (PAGES / f"{name}.md").write_text(text)
        print(f"wrote docs/measurements/{name}.md")


def pages() -> dict[str, str]:
    """The text of each page by its name."""
    found = {}
    for name, (title, sections) in TITLES.items():
        parts = [part for section in sections for part in shown(section)]
        note = "<!-- Made by `python -m benchmarks tables`: edit that. -->"
        found[name] = "\n".join([f"# {title}", "", note, *parts]) + "\n"
    return found


def shown(section: Section) -> list[str]:
    """The lines of a section; none without results."""
    lines = []
    for name in section.results:
        groups = alike(records(name), section)
        if section.merged:
            every = [row for rows, _ in groups.values() for row in rows]
            lines += ["", *table(every, section, False)]
        for where, (rows, commands) in groups.items():
            counts = {row.get("n") for row in rows} - {None}
            many = len(counts) > 1
            n = "" if many or not counts else f", n = {counts.pop():,}"
            said = [f"`{command}`" for command in commands]
            if section.merged:
                n = ""
            else:
                lines += ["", *table(rows, section, many)]
            lines += ["", f"{where}{n}:", ""]
            lines += [f"- {each}" for each in said]
    return ["", f"## {section.title}", "", section.says, *lines] if lines else []


def alike(
    found: list[dict[str, Any]], section: Section
) -> dict[str, tuple[list[Row], list[str]]]:
    """The rows that a section shows, and their commands, by where they are from."""
    groups: dict[str, tuple[list[Row], list[str]]] = {}
    for record in found:
        rows = [
            row
            for row in record["rows"]
            if any(words in row["what"] for words in section.having)
            and section.unit in ("", row["unit"])
        ]
        if rows:
            group = groups.setdefault(machine(record), ([], []))
            group[0].extend(rows)
            group[1].append(record["command"])
    return groups


def table(rows: list[Row], section: Section, many: bool) -> list[str]:
    """A line for each name, a column for each unit or for each part of the names."""

    def place(row: Row) -> tuple[str, str]:
        if section.across == ": ":
            column, _, line = row["what"].partition(": ")
        elif section.across:
            split = section.across.removesuffix("last")
            line, _, column = row["what"].rpartition(split)
        else:
            line, column = row["what"], row["unit"]
        return line, column

    cells = defaultdict(str, {place(row): cell(row, many) for row in rows})
    names = list(dict.fromkeys(line for line, _ in cells))
    columns = list(dict.fromkeys(column for _, column in cells))
    return [
        "| " + " | ".join([section.unit, *columns]) + " |",
        "|" + "---|" * (1 + len(columns)),
        *(
            "| " + " | ".join([name, *(cells[name, c] for c in columns)]) + " |"
            for name in names
        ),
    ]


def cell(row: Row, many: bool) -> str:
    """A number with its interval or range, and of how many where that differs."""
    share = row["unit"] in SHARES
    show = percent if share else plain
    text = show(row["value"])
    if "low" in row:
        between = " to " if row["low"] < 0 else "–"
        text += f" ({show(row['low'])}{between}{show(row['high'])})"
    text += " %" if share else ""
    return text + (f", n = {row['n']:,}" if many and "n" in row else "")


def percent(value: float) -> str:
    return f"{100 * value:.1f}" if value != 1 else "100"


def plain(value: float | str) -> str:
    if isinstance(value, str):
        return value.replace("|", "\\|")
    if value and abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def machine(record: dict[str, Any]) -> str:
    """Where and with what rows were measured."""
    env = record["environment"]
    words = [env.get("accelerator"), env.get("processor"), f"{env['cores']} cores"]
    words += [f"{name} {number}" for name, number in env["versions"].items()]
    words += [f"commit {env['commit']}"] if "commit" in env else []
    words += [f"{name} {value}" for name, value in record["about"].items()]
    return ", ".join(word for word in words if word)

"""What was measured of a network, as tables and as pictures."""

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import SharpnessOptions
from ..extras import require
from ..fields import format_estimate
from ..figures import add_title, figure_style, new_figure, save_figure
from ..losses import Loss
from ..measures import MEASURES, Picture, meaning, unit_of_loss
from ..results import TextTable, to_markdown
from ..sharpness import Estimate, Measured

Found = Mapping[str, Mapping[str, Measured]]


@dataclasses.dataclass(frozen=True)
class SharpnessTable:
    """What was measured of a network; printed, it is what `eqcifar sharpness` prints.

    - `found`: by split and measure, with curves and shares in `Measured.tables`.
    - `options`, `loss`: how it was measured.
    - `sizes`: how many images there are, by split.
    - `title`, `network`: what tables and what pictures call the network.
    - `data`: what tables and what pictures call the images.
    - `mode`: by what normalisation layers normalise, where there can be any.
    - `remarks`: lines to stand below.
    - `synthetic`: whether the images are no photographs.
    """

    found: Found
    options: SharpnessOptions
    loss: Loss
    sizes: Mapping[str, int]
    title: str
    network: str
    data: tuple[str, str] = ("", "")
    mode: str = ""
    remarks: Sequence[str] = ()
    synthetic: bool = False

    @property
    def values(self) -> dict[str, Estimate]:
        """Each number by its column, of the first split, with error and `interval`."""
        first = next(iter(self.found.values()))
        return {k: e for m in first.values() for k, e in m.values.items()}

    @property
    def tables(self) -> dict[str, Any]:
        """Curves and shares by name, of the first split."""
        first = next(iter(self.found.values()))
        return {k: table for m in first.values() for k, table in m.tables.items()}

    def texts(self) -> list[TextTable]:
        """A table a split; under the last stands what the numbers rest on."""
        texts = []
        for split, measures in self.found.items():
            rows = [
                [name, *_cells(e, m.bounds.get(name)), meaning(name, self.loss.name)]
                for m in measures.values()
                for name, e in m.values.items()
            ]
            most = max(e.examples for m in measures.values() for e in m.values.values())
            title = f"{self.title} on {most} of {self.sizes[split]} {split} images"
            title += f" of {self.data[0]}" if self.data[0] else ""
            value = "SYNTHETIC" if self.synthetic else "value"
            columns = ["measure", value, "±", "images", "meaning"]
            texts.append(TextTable(f"{title}, {self.loss}", columns, rows, []))
        texts[-1].notes.extend(self._notes())
        return texts

    def plot(self, stem: str | os.PathLike[str]) -> list[Path]:
        """Draw what has pictures, as `eqcifar sharpness --plot` does.

        **Arguments:**

        - `stem`: the beginning of the files' names, such as `figures/sharpness`.

        **Returns:**

        The PNG and SVG files, named after it and what they show.

        **Raises:**

        `UsageError` without Matplotlib.
        """
        check_plots()
        stem, files = Path(stem), []
        pictures = {k: p for m in MEASURES.values() for k, p in m.pictures.items()}
        kinds = [t for ms in self.found.values() for m in ms.values() for t in m.tables]
        for kind in dict.fromkeys(kinds):
            if kind not in pictures:
                continue
            picture = pictures[kind]
            having = {
                split: measured
                for split, measures in self.found.items()
                for measured in measures.values()
                if kind in measured.tables
            }
            tables = {s: measured.tables[kind] for s, measured in having.items()}
            with figure_style():
                figure = new_figure()
                unit = unit_of_loss(self.loss.name)
                picture.draw(figure, tables, unit, self.found)
                title = self._caption(picture, having)
                if not all(map(picture.has_interval, tables.values())):
                    title += ", of these very images: no interval"
                add_title(figure, title)
            for suffix in ("png", "svg"):
                path = stem.with_name(f"{stem.name}_{kind}.{suffix}")
                save_figure(figure, path)
                files.append(path)
        return files

    def _caption(self, picture: Picture, having: Mapping[str, Measured]) -> str:
        """The network, what was measured of it, on how many images, in which mode."""
        images = " and ".join(
            f"{max(e.examples for e in measured.values.values())} {split}"
            for split, measured in having.items()
        )
        what = f"mean {self.loss}" if picture.of_loss else "NTK"
        mark = "SYNTHETIC: " if self.synthetic else ""
        named = ", ".join(filter(None, (self.network, self.data[1])))
        mode = f"\nBatchNorm by {self.mode}" if self.mode else ""
        return f"{mark}{named}\n{what} on {images} images{mode}"

    def _notes(self) -> Iterator[str]:
        whose = {"split": "the split", "population": "the population it is from"}
        yield (
            f"±: half the 95 % interval of the value over {whose[self.options.target]} "
            "(--json and interval() have both ends, which lean where terms are "
            "skewed); of lmax and lambda, and the bound within which an eigenvalue "
            "lies; empty where one image tells nothing."
        )
        estimates = [e for _, e in _named_estimates(self.found)]
        yield from _fitted_note(self.found)
        yield from rise_note(self.found)
        if any(e.data_error and e.examples < 50 for e in estimates):
            yield "From under 50 images, intervals hold the truth in under 95 %."
        traces = [measures.get("trace") for measures in self.found.values()]
        yield from [_path_note(t.tables["path"]) for t in traces[:1] if t]
        yield from self.remarks

    def __str__(self) -> str:
        return "\n\n".join(map(_to_text, self.texts()))

    def _repr_markdown_(self) -> str:
        return "\n\n".join(map(to_markdown, self.texts()))


def check_plots():
    """Refuse to plot where that cannot be done, before anything is computed.

    **Raises:**

    `UsageError` naming the extra to install.
    """
    require("matplotlib", "plot", "--plot")


def _cells(estimate: Estimate, bound: float | None) -> tuple[str, str, str]:
    half = estimate.half_width() + (bound or 0.0)
    return (*format_estimate(estimate.value, half), str(estimate.examples))


def _to_text(table: TextTable) -> str:
    rows = [table.columns, *table.rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: Sequence[str]) -> str:
        name, *numbers, last = row
        parts = [cell.rjust(w) for cell, w in zip(numbers, widths[1:-1], strict=True)]
        return "  ".join([name.ljust(widths[0]), *parts, last])

    return "\n".join([table.title, "", *map(line, rows), "", *table.notes]).rstrip()


def _named_estimates(found: Found) -> list[tuple[str, Estimate]]:
    return [
        (name, estimate)
        for measures in found.values()
        for measured in measures.values()
        for name, estimate in measured.values.items()
    ]


def _fitted_note(found: Found) -> list[str]:
    fitted = {k: e for k, e in _named_estimates(found) if e.bias}
    if not fitted:
        return []
    names = dict.fromkeys(re.sub(r"_\d+$", "", name) for name in fitted)
    few = any(e.examples < 200 for e in fitted.values())
    return [
        f"{', '.join(names)}: fitted to these images, and so biased upwards; what "
        "halves of them show of that is taken off (bias in --json) and counts as an "
        "error."
        + (" From under 200 images, intervals hold the truth in 70 to 100 %." * few)
    ]


def rise_note(found: Found) -> list[str]:
    """How often intervals of rises held the truth: `benchmarks/coverage_fitted.py`."""
    values, lines = _named_estimates(found), []
    if any(k.startswith("sam") and e.bias for k, e in values):
        lines.append(
            "sam: more bias may be left. In tests, 95 % intervals held the value over "
            "all images in 85 to 100 % of draws."
        )
    if any(k.startswith("average") and e.probes < 10 for k, e in values):
        lines.append(
            "average: from 5 directions, 95 % intervals held the truth in 68 to 96 %."
        )
    return lines


def _path_note(path: Mapping[str, Any]) -> str:
    curved = len(path["curved"])
    return {
        "exact": "Logits are piecewise affine in each parameter array: tr_hess = "
        "tr_ggn.",
        "control": f"Logits are curved in {curved} parameter arrays taken alone: "
        "tr_resid is estimated.",
        "general": "The loss is no sum over images: random directions throughout. From "
        "few batches, intervals hold the truth in 90 to 95 %.",
    }[path["method"]]

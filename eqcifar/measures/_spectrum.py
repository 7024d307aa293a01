"""The spectral density of the Hessian."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..figures import add_legend, set_log
from ._measure import Column, Measure, Picture
from ._picture import band, line

if TYPE_CHECKING:
    from ..sharpness import Measured, Task


def _compute(task: "Task") -> "Measured":
    """The spectral density of the Hessian."""
    from ..sharpness import Measured, page, spectral_density

    probes, steps = max(task.probes, 4), task.steps(40, 10)
    before = task.work_to(task.pairs)
    total = before + probes * steps
    known = task.leading("hess", "eigen-hess", task.pairs, 0, total)
    with page("spectrum"):
        found = spectral_density(
            task.operator("hess", before, total),
            probes=probes,
            steps=steps,
            points=400,
            basis_memory=task.basis,
            known=known,
            key=task.key,
        )
    names = "grid", "density", "low", "high"
    curves: dict[str, Any] = {name: getattr(found, name).tolist() for name in names}
    curves["width"] = found.width
    norm = dataclasses.replace(found.frobenius, examples=len(task.examples))
    return Measured({"frobenius2": norm}, {}, {"spectrum": curves})


def _spectrum(figure: Any, tables: Mapping[str, Any], loss: str, found: Any):
    import numpy as np

    axes = figure.add_subplot()
    floor = 1e-7
    for split, curve in tables.items():
        grid = np.array(curve["grid"])
        low, density, high = (
            np.maximum(curve[key], floor) for key in ("low", "density", "high")
        )
        label = f"{split}, σ = {curve['width']:.2g}"
        axes.plot(grid, density, **line(split, marker=None, label=label))
        band(axes, split, grid, low, high)
    set_log(axes, "y")
    axes.set(
        ylim=(floor, None),
        xlabel=f"eigenvalue of the Hessian ({loss} / parameter²)",
        ylabel="density (1 / eigenvalue), 95 % band,\nby a Gaussian of width σ",
    )
    _mark_eigenvalues(axes, found)
    add_legend(figure)


def _mark_eigenvalues(axes: Any, found: Mapping[str, Mapping[str, "Measured"]]):
    # Single eigenvalues, where they were measured too, stand below the density.
    for split, measures in found.items():
        values = [
            (name, estimate.value)
            for measured in measures.values()
            for name, estimate in measured.values.items()
            if name == "lmax" or name.removeprefix("lambda_").isdigit()
        ]
        values = [v for v in values if v[0] != "lmax"] or values
        if values:
            axes.plot(
                [value for _, value in values],
                [3e-7] * len(values),
                **line(
                    split,
                    linestyle="none",
                    markersize=5,
                    markeredgecolor="white",
                    label=f"{split}, largest {len(values)} by Lanczos",
                ),
            )


SPECTRUM = Measure(
    "spectrum",
    {
        "frobenius2": Column(
            "||H||_F^2 of the Hessian of the mean {loss} loss over these images",
            "({loss} / parameter²)²",
        )
    },
    _compute,
    {"spectrum": Picture(_spectrum)},
)

"""Traces of these very images by products with vectors."""

import dataclasses
from functools import partial
from typing import TYPE_CHECKING

from ._measure import Column, Measure

if TYPE_CHECKING:
    from ..sharpness import Kind, Measured, Task


def _compute(task: "Task", name: str, kinds: "tuple[Kind, ...]") -> "Measured":
    """The traces of H and GGN, of these very images, by products with vectors."""
    from .. import sharpness
    from ..sharpness import Measured, page

    estimate = {
        "hutchinson": sharpness.hutchinson,
        "hutch++": sharpness.hutch_plus_plus,
        "xtrace": sharpness.xtrace,
        "xnystrace": sharpness.xnystrace,
    }[name]
    matvecs, values = max(task.probes, 12), {}
    room = {} if name == "hutchinson" else {"basis_memory": task.basis}
    for index, kind in enumerate(kinds):
        with page(f"{name}-{kind}"):
            found = estimate(
                task.operator(kind, index * matvecs, len(kinds) * matvecs),
                matvecs=matvecs,
                key=task.key,
                **room,
            )
        found = dataclasses.replace(found, examples=len(task.examples))
        values[f"tr_{kind}_{name}"] = found
    for kind in kinds:
        with page(f"{name}-{kind}") as rows:
            rows.clear()  # vectors as large as the network
    return Measured(values)


def _measure(name: str, held: str, kinds: "tuple[Kind, ...]") -> Measure:
    return Measure(
        name,
        {
            f"tr_{kind}_{name}": Column(
                f"tr_{kind} ({{loss}}) of these images; 95 % intervals held the truth "
                f"in {held}",
                "{loss} / parameter²",
            )
            for kind in kinds
        },
        partial(_compute, name=name, kinds=kinds),
    )


# How often 95 % intervals held the truth: see `benchmarks/coverage.py`.
HUTCHINSON = _measure("hutchinson", "94 to 95 %", ("hess", "ggn"))
HUTCH_PLUS_PLUS = _measure("hutch++", "93 to 96 %", ("hess", "ggn"))
XTRACE = _measure("xtrace", "97 to 98 %", ("hess", "ggn"))
# For matrices without negative eigenvalues.
XNYSTRACE = _measure("xnystrace", "93 to 97 %", ("ggn",))

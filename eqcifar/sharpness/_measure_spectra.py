"""The measures that are spectra: of the Hessian, the GGN and the NTK."""

import dataclasses
from typing import Any

import jax
import numpy as np

from ._estimate import Estimate
from ._gram import ntk_gram
from ._lanczos import spectral_density
from ._operator import Kind
from ._task import Measured, Task

GRAM_EXAMPLES = 64


def lmax(task: Task) -> Measured:
    """The largest eigenvalue of the Hessian."""
    found = task.leading("hess", "lmax", 1)
    value = task.single(float(found.values[0]), found.matvecs, found.seconds)
    return Measured({"lmax": value}, {"lmax": float(found.bounds[0])})


def eigenvalues(task: Task) -> Measured:
    """The largest eigenvalues of the Hessian and of the GGN, with residual bounds."""
    values: dict[str, Estimate] = {}
    bounds: dict[str, float] = {}
    kinds: dict[Kind, str] = {"hess": "lambda", "ggn": "lambda_ggn"}
    steps = task.steps_to(task.pairs)
    for index, (kind, name) in enumerate(kinds.items()):
        found = task.leading(
            kind, f"eigen-{kind}", task.pairs, index * steps, len(kinds) * steps
        )
        for k in range(min(task.top, len(found.values))):
            value = float(found.values[k])
            values[f"{name}_{k + 1}"] = task.single(value, found.matvecs, found.seconds)
            bounds[f"{name}_{k + 1}"] = float(found.bounds[k])
    return Measured(values, bounds)


def spectrum(task: Task) -> Measured:
    """The spectral density of the Hessian."""
    probes, steps = max(task.probes, 4), task.steps(40, 10)
    names = ("rules", *(f"vector{m}" for m in range(probes)))
    found = spectral_density(
        task.operator("hess", 0, probes * steps),
        probes=probes,
        steps=steps,
        points=400,
        basis_memory=task.basis,
        key=task.key,
        done={name: task.passes(f"spectrum-{name}") for name in names},
    )
    names = "grid", "density", "low", "high"
    curves: dict[str, Any] = {name: getattr(found, name).tolist() for name in names}
    curves["width"] = found.width
    norm = dataclasses.replace(found.frobenius, examples=len(task.examples))
    return Measured({"frobenius2": norm}, {}, {"spectrum": curves})


def gram(task: Task) -> Measured:
    """The spectrum of the NTK on a few examples."""
    few = task.examples.take(task.examples.order[:GRAM_EXAMPLES])
    few = dataclasses.replace(few, place=jax.numpy.asarray)
    matrix = ntk_gram(task.network, few, memory=task.memory)
    values = np.linalg.eigvalsh(matrix)[::-1]
    task.count(1, 1)
    one = dataclasses.replace(task.single(0.0, len(matrix)), examples=len(few))
    rank = float(values.sum() ** 2 / (values**2).sum())
    found = {"lmax_ntk": one.shift(float(values[0])), "rank_ntk": one.shift(rank)}
    return Measured(found, {}, {"gram": values.tolist()})

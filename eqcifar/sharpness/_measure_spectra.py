"""The measures that are spectra: of the Hessian, the GGN and the NTK."""

import dataclasses
from typing import Any

import jax
import numpy as np

from eqcifar.errors import UsageError

from ._estimate import Estimate
from ._gram import ntk_estimates, ntk_gram
from ._lanczos import spectral_density
from ._operator import Kind
from ._task import Measured, Task

GRAM_EXAMPLES = 64


def lmax(task: Task) -> Measured:
    """The largest eigenvalue of the Hessian."""
    total = task.work(1)
    found = task.leading("hess", "lmax", 1, 0, total)
    (value,) = task.of_draw("hess", "lmax", found, task.steps_to(1), total)
    return Measured({"lmax": value}, {"lmax": float(found.bounds[0])})


def eigenvalues(task: Task) -> Measured:
    """The largest eigenvalues of the Hessian and of the GGN, with residual bounds."""
    values: dict[str, Estimate] = {}
    bounds: dict[str, float] = {}
    kinds: dict[Kind, str] = {"hess": "lambda", "ggn": "lambda_ggn"}
    if task.top > task.network.size:
        raise UsageError(
            f"the network has {task.network.size} parameters, so there are no "
            f"{task.top} eigenvalues: take a smaller --top"
        )
    count, work = task.pairs, task.work(task.pairs)
    for index, (kind, name) in enumerate(kinds.items()):
        at, total = index * work, len(kinds) * work
        found = task.leading(kind, f"eigen-{kind}", count, at, total)
        at += task.steps_to(count)
        drawn = task.of_draw(kind, f"eigen-{kind}", found, at, total)
        for k in range(task.top):
            values[f"{name}_{k + 1}"] = drawn[k]
            bounds[f"{name}_{k + 1}"] = float(found.bounds[k])
    return Measured(values, bounds)


def spectrum(task: Task) -> Measured:
    """The spectral density of the Hessian."""
    probes, steps = max(task.probes, 4), task.steps(40, 10)
    before = task.steps_to(task.pairs)
    total = before + probes * steps
    known = task.leading("hess", "eigen-hess", task.pairs, 0, total)
    names = ("rules", *(f"vector{m}" for m in range(probes)))
    found = spectral_density(
        task.operator("hess", before, total),
        probes=probes,
        steps=steps,
        points=400,
        basis_memory=task.basis,
        known=known,
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
    task.count(1, 1)
    estimates = ntk_estimates(
        matrix, len(few), population=few.population, target=task.target
    )
    values = np.linalg.eigvalsh(matrix)[::-1]
    return Measured(estimates, {}, {"gram": values.tolist()})

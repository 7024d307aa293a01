"""The measures that are traces: by example, and by products with one operator."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import numpy as np

from eqcifar.losses import get_loss

from ._estimate import Estimate, Target, estimate_mean
from ._hessian_trace import hessian_trace
from ._network import Network
from ._operator import Kind
from ._output_traces import OutputTraces
from ._stochastic_trace import hutch_plus_plus, hutchinson, xnystrace, xtrace
from ._task import Measured, Task

_BOTH: tuple[Kind, ...] = ("hess", "ggn")
# XNysTrace is for matrices without negative eigenvalues.
ESTIMATORS: dict[str, tuple[Callable[..., Estimate], tuple[Kind, ...]]] = {
    "hutchinson": (hutchinson, _BOTH),
    "hutch++": (hutch_plus_plus, _BOTH),
    "xtrace": (xtrace, _BOTH),
    "xnystrace": (xnystrace, ("ggn",)),
}


def trace(task: Task) -> Measured:
    """Traces of the Hessian and the GGN, and what they are made of."""
    loss = get_loss(task.loss)
    # Under `mse` the pass over outputs is that of the NTK, whatever the labels.
    done = {
        "outputs": task.passes(f"outputs-{loss.name}"),
        "probes": task.passes(f"probes-{loss.name}-{loss.label_smoothing:g}"),
    }
    result = hessian_trace(
        task.network,
        task.examples,
        task.loss,
        probes=task.probes,
        residual_probes=max(task.probes, 2),
        rtol=task.rtol,
        target=task.target,
        memory=task.memory,
        key=task.key,
        done=done,
        report=task.follow(
            done["probes" if task.network.batch_statistics else "outputs"]
        ),
    )
    values = {"tr_hess": result.hess, "tr_ggn": result.ggn, "tr_resid": result.resid}
    tables: dict[str, Any] = {
        "path": {"method": result.method, "curved": list(result.curved)}
    }
    if result.outputs is not None:
        for scaled in ("theta", "filter"):
            estimate = result.outputs.estimate(scaled, target=task.target)
            values[f"tr_ggn_{scaled}"] = estimate
        tables |= _attribution(result.outputs, task.target)
    return Measured(values, {}, tables)


def ntk(task: Task, mean: bool = False) -> Measured:
    """Traces of the NTK and its scale-invariant forms: the sum over classes.

    Or their `mean` over classes, from the same pass and under other names.
    """
    outputs = task.outputs(task.network, "mse", "outputs-mse")
    names = {"tr_ntk": "plain", "tr_ctk": "theta", "tr_ntk_filter": "filter"}
    end = "_mean" if mean else ""
    factor = 1 / len(outputs.label_counts) if mean else 1.0
    return Measured(
        {
            f"{k}{end}": outputs.estimate(kind, target=task.target).scale(factor)
            for k, kind in names.items()
        }
    )


def unit(task: Task) -> Measured:
    """The traces of the NTK for logits of unit standard deviation."""
    model = eqx.combine(task.network.params, task.network.static)
    network = Network(model, task.network.state, unit_logits=True)
    outputs = task.outputs(network, "mse", "outputs-unit")
    names = {"tr_ntk_unit": "plain", "tr_ctk_unit": "theta"}
    return Measured(
        {k: outputs.estimate(kind, target=task.target) for k, kind in names.items()}
    )


def by_products(task: Task, name: str) -> Measured:
    """The traces of H and GGN, of these very images, by products with vectors."""
    estimate, kinds = ESTIMATORS[name]
    matvecs, values = max(task.probes, 12), {}
    room = {} if estimate is hutchinson else {"basis_memory": task.basis}
    passes = [task.passes(f"{name}-{kind}") for kind in kinds]
    for index, (kind, done) in enumerate(zip(kinds, passes, strict=True)):
        found = estimate(
            task.operator(kind, index * matvecs, len(kinds) * matvecs),
            matvecs=matvecs,
            key=task.key,
            done=done,
            **room,
        )
        found = dataclasses.replace(found, examples=len(task.examples))
        values[f"tr_{kind}_{name}"] = found
    for done in passes:
        done.clear()  # vectors as large as the network
    return Measured(values)


def _attribution(outputs: OutputTraces, target: Target) -> dict[str, Any]:
    table, size = outputs.table(), int(outputs.label_counts.sum())
    counts = np.unique(np.geomspace(2, len(table), 40).astype(int))
    sofar = [
        estimate_mean(table[:n], exact=outputs.exact, population=size) for n in counts
    ]

    def record(name: Any, e: Estimate) -> dict[str, Any]:
        half = e.half_width()
        return {"name": name, "value": e.value, "error": e.standard_error, "half": half}

    shares = outputs.shares(target=target)

    def share(name: str) -> dict[str, float]:
        return {"share": shares[name].value, "share_half": shares[name].half_width()}

    layers = outputs.per_leaf(target=target).items()
    classes = outputs.per_label(target=target).items()
    return {
        "convergence": [
            record(int(n), e) for n, e in zip(counts, sofar, strict=True) if n > 1
        ],
        "layers": [record(name, e) | share(name) for name, e in layers],
        "classes": [record(label, e) for label, e in classes],
        "examples": [list(row) for row in outputs.sharpest(len(table))],
    }

"""Every measure by name: what `eqcifar sharpness` and a log of training compute."""

import dataclasses
import difflib
from collections.abc import Callable, Iterable, MutableMapping
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from eqcifar.errors import UsageError

from ._estimate import Estimate, Target, estimate_mean
from ._examples import Examples, Rows
from ._gram import ntk_gram
from ._hessian_trace import hessian_trace
from ._lanczos import eigenpairs, spectral_density
from ._landscape import filter_normalised, landscape
from ._network import Network
from ._output_traces import OutputTraces
from ._radius import average_sharpness, sam_sharpness
from ._task import Measured, Report, Task

RADIUS, ADAPTIVE_RADIUS, REACH, GRAM_EXAMPLES = 0.05, 0.5, 0.5, 64


def _trace(task: Task) -> Measured:
    done = {kind: task.passes(f"{kind}-{task.loss}") for kind in ("outputs", "probes")}
    result = hessian_trace(
        task.network,
        task.examples,
        task.loss,
        probes=task.probes,
        residual_probes=max(task.probes, 2),
        method="general" if task.network.batch_statistics else "auto",
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
    tables: dict[str, Any] = {"path": {"method": result.method, "bend": result.bend}}
    if result.outputs is not None:
        for scaled in ("theta", "filter"):
            estimate = result.outputs.estimate(scaled, target=task.target)
            values[f"tr_ggn_{scaled}"] = estimate
        tables |= _attribution(result.outputs, task.target)
    return Measured(values, {}, tables)


def _attribution(outputs: OutputTraces, target: Target) -> dict[str, Any]:
    table, size = outputs.table(), int(outputs.label_counts.sum())
    counts = np.unique(np.geomspace(2, len(table), 40).astype(int))
    sofar = [
        estimate_mean(table[:n], exact=outputs.exact, population=size) for n in counts
    ]

    def record(name: Any, e: Estimate) -> dict[str, Any]:
        half = e.half_width()
        return {"name": name, "value": e.value, "error": e.standard_error, "half": half}

    layers = outputs.per_leaf(target=target).items()
    classes = outputs.per_label(target=target).items()
    return {
        "convergence": [
            record(int(n), e) for n, e in zip(counts, sofar, strict=True) if n > 1
        ],
        "layers": [record(name, e) for name, e in layers],
        "classes": [record(label, e) for label, e in classes],
        "examples": [list(row) for row in outputs.sharpest(len(table))],
    }


def _ntk(task: Task) -> Measured:
    outputs = task.outputs(task.network, "mse", "outputs-mse")
    names = {"tr_ntk": "plain", "tr_ctk": "theta", "tr_ntk_filter": "filter"}
    return Measured(
        {k: outputs.estimate(kind, target=task.target) for k, kind in names.items()}
    )


def _unit(task: Task) -> Measured:
    model = eqx.combine(task.network.params, task.network.static)
    unit = Network(model, task.network.state, unit_logits=True)
    outputs = task.outputs(unit, "mse", "outputs-unit")
    names = {"tr_ntk_unit": "plain", "tr_ctk_unit": "theta"}
    return Measured(
        {k: outputs.estimate(kind, target=task.target) for k, kind in names.items()}
    )


def _lmax(task: Task) -> Measured:
    steps = min(100, task.network.size)
    found = eigenpairs(
        task.operator(steps),
        steps=steps,
        rtol=1e-3,
        memory=4 * task.memory,
        key=task.key,
        done=task.passes("lmax"),
    )
    value = task.single(float(found.values[0]), found.matvecs, found.seconds)
    return Measured({"lmax": value}, {"lmax": float(found.bounds[0])})


def _spectrum(task: Task) -> Measured:
    probes, steps = max(task.probes, 4), min(40, task.network.size)
    names = ("rules", *(f"vector{m}" for m in range(probes)))
    found = spectral_density(
        task.operator(probes * steps),
        probes=probes,
        steps=steps,
        points=400,
        memory=4 * task.memory,
        key=task.key,
        done={name: task.passes(f"spectrum-{name}") for name in names},
    )
    names = "grid", "density", "low", "high"
    curves = {name: getattr(found, name).tolist() for name in names}
    norm = dataclasses.replace(found.frobenius, examples=len(task.examples))
    return Measured({"frobenius2": norm}, {}, {"spectrum": curves})


def _gram(task: Task) -> Measured:
    few = task.examples.take(task.examples.order[:GRAM_EXAMPLES])
    few = dataclasses.replace(few, place=jax.numpy.asarray)
    matrix = ntk_gram(task.network, few, memory=task.memory)
    spectrum = np.linalg.eigvalsh(matrix)[::-1]
    task.count(1, 1)
    one = dataclasses.replace(task.single(0.0, len(matrix)), examples=len(few))
    rank = float(spectrum.sum() ** 2 / (spectrum**2).sum())
    values = {
        "lmax_ntk": one.shift(float(spectrum[0])),
        "rank_ntk": one.shift(rank),
    }
    return Measured(values, {}, {"gram": spectrum.tolist()})


def _radius(task: Task) -> Measured:
    values: dict[str, Estimate] = {}
    probes = max(task.probes, 5)
    total = 2 * (probes + 1)
    for step, adaptive in enumerate((False, True)):
        radius = ADAPTIVE_RADIUS if adaptive else RADIUS
        end = "_adaptive" if adaptive else ""
        rise = sam_sharpness(
            task.network,
            task.examples,
            task.loss,
            radius=radius,
            adaptive=adaptive,
            done=task.passes(f"sam{end}"),
        )
        values[f"sam{end}"] = task.single(rise, 1)
        before = step * (probes + 1) + 1
        task.count(before, total)
        values[f"average{end}"] = average_sharpness(
            task.network,
            task.examples,
            task.loss,
            radius=radius,
            adaptive=adaptive,
            probes=probes,
            key=task.key,
            done=task.passes(f"average{end}"),
            report=lambda m, _, before=before: task.count(before + m, total),
        )
    return Measured(values)


def _landscape(task: Task, directions: int = 1) -> Measured:
    keys = jax.random.split(task.key, directions)
    found = landscape(
        task.network,
        task.examples,
        [filter_normalised(task.network, key) for key in keys],
        task.loss,
        reach=REACH,
        points=21 if directions == 1 else 11,
        done=task.passes("line" if directions == 1 else "plane"),
        report=task.count,
    )
    curves = {
        "steps": found.steps.tolist(),
        "loss": found.loss.tolist(),
        "accuracy": found.accuracy.tolist(),
    }
    if directions == 2:
        return Measured({}, {}, {"plane": curves})
    rise = float((found.loss[0] + found.loss[-1]) / 2 - found.loss[10])
    value = task.single(rise, len(found.loss))
    return Measured({"line": value}, {}, {"landscape": curves})


MEASURES: dict[str, tuple[Callable[[Task], Measured], str]] = {
    "trace": (_trace, "traces of the Hessian and the GGN; attribution"),
    "ntk": (_ntk, "traces of the NTK and its scale-invariant forms"),
    "unit": (_unit, "the same for logits of unit standard deviation"),
    "lmax": (_lmax, "largest eigenvalue of the Hessian"),
    "radius": (_radius, "rise of the loss at a finite radius"),
    "gram": (_gram, f"spectrum of the NTK on {GRAM_EXAMPLES} examples"),
    "landscape": (_landscape, "loss along a filter-normalised line"),
    "plane": (lambda task: _landscape(task, 2), "loss over such a plane"),
    "spectrum": (_spectrum, "spectral density of the Hessian"),
}


def check_measures(names: Iterable[str]) -> tuple[str, ...]:
    """The names without repetition; `all` stands for every measure.

    **Raises:**

    `UsageError` for a name that is no measure, with the nearest ones.
    """
    chosen: dict[str, None] = {}
    for name in names:
        if name == "all":
            chosen.update(dict.fromkeys(MEASURES))
        elif name in MEASURES:
            chosen[name] = None
        else:
            near = difflib.get_close_matches(name, MEASURES, n=2)
            hint = f": did you mean {' or '.join(near)}?" if near else ""
            raise UsageError(
                f"Unknown measure {name!r}{hint or '.'} There are "
                f"{', '.join(MEASURES)}, and all."
            )
    return tuple(chosen)


def measure(
    network: Network,
    examples: Examples,
    name: str,
    loss: str = "ce",
    *,
    probes: int = 2,
    rtol: float | None = None,
    target: Target = "split",
    memory: float = 1e9,
    key: PRNGKeyArray,
    rows: MutableMapping[str, Rows] | None = None,
    report: Report = lambda done, total, sofar: None,
) -> Measured:
    """Compute one of `MEASURES`.

    **Arguments:**

    - `network`, `examples`: in random order where `rtol` is given.
    - `loss`: `mse` or `ce`.
    - `probes`: random vectors an example (traces) or in all (others, which take a few
        at least); 0: the traces of GGN and NTK without any.
    - `rtol`: where the passes over examples stop, see `output_traces`.
    - `memory`: bytes for per-example gradients; a basis of Lanczos may take four
        times as much.
    - `key`: with all else equal, the same key gives the same bits.
    - `rows`: pieces of what is unfinished, by name; read and filled.
    - `report`: called with the work done, the whole, and what gives the estimate so
        far. It may raise, to stop.
    """
    (name,) = check_measures([name])
    if 8.0 * probes * len(examples) > memory:
        raise UsageError(
            f"{probes} probes on {len(examples)} examples take "
            f"{8e-9 * probes * len(examples):.1f} GB of results, more than the "
            f"{memory / 1e9:.1f} GB allowed: ask for fewer, or allow more memory."
        )
    rows = {} if rows is None else rows
    task = Task(
        network, examples, loss, probes, rtol, target, memory, key, rows, report
    )
    return MEASURES[name][0](task)

import dataclasses
from collections.abc import Callable, Iterable, MutableMapping
from typing import Any

import jax
from jaxtyping import PRNGKeyArray

from ..config import SharpnessOptions
from ..errors import UsageError
from ..measures import MEASURES, check_measures
from ..sharpness import (
    MEMORY,
    Estimate,
    Examples,
    Loss,
    Measured,
    Network,
    Output,
    Rows,
    Target,
    Task,
    check_memory,
    keeping,
)


def compute_measure(
    network: Network,
    examples: Examples,
    name: str,
    loss: str | Loss,
    *,
    probes: int,
    top: int = 5,
    rtol: float | None = None,
    target: Target = "split",
    memory: float = MEMORY,
    key: PRNGKeyArray,
    together: Iterable[str] = (),
    rows: MutableMapping[str, Rows] | None = None,
    start: Callable[[], tuple[Any, Any]] | None = None,
    report: Callable[[int, int, Callable[[], Estimate | None]], None] = lambda *_: None,
) -> Measured:
    """Compute one of `eqcifar.measures.MEASURES`.

    **Arguments:**

    - `network`, `examples`: in random order where `rtol` is given.
    - `loss`: `mse`, `ce`, a `NamedLoss` with smoothed labels, or a function of the
        logits and the label of one example.
    - `probes`: random vectors an example (traces) or in all (others, which take a few
        at least); 0: the traces of GGN and NTK without any.
    - `top`: how many eigenvalues.
    - `rtol`: where the passes over examples stop, see `output_traces`.
    - `memory`: bytes for per-example gradients; a basis of vectors may take
        four times as much.
    - `key`: with all else equal, the same key gives the same bits.
    - `together`: measures that are computed with the same `rows`: those that are traces
        by vector-Jacobian products then share a pass over the examples.
    - `rows`: pieces of what is unfinished, by name; read and filled.
    - `start`: gives the model and state that training began with, for `distance`.
    - `report`: called with the work done, the whole, and what gives the estimate so
        far. It may raise, to stop.

    **Raises:**

    `UsageError` for an unknown measure, or one that does not fit the memory.
    """
    (name,) = check_measures([name])
    check_memory(
        f"{probes} probes on {len(examples)} examples",
        8.0 * probes * len(examples),
        memory,
        "ask for fewer, or allow more memory.",
        of=" of results",
    )
    rows = {} if rows is None else rows
    outputs: set[Output] = {
        output
        for each in check_measures([name, *together])
        if (output := MEASURES[each].output) is not None
    }
    task = Task(
        network,
        examples,
        loss,
        probes,
        top,
        rtol,
        target,
        memory,
        key,
        MEASURES[name].output,
        tuple(sorted(outputs)),
    )
    if start is not None:
        task = dataclasses.replace(task, start=start)

    def told(done: int, total: int, pieces: Rows):
        report(done, total, lambda: task.sofar(pieces))

    with keeping(rows, told):
        return MEASURES[name].compute(task)


def measure_examples(
    network: Network,
    examples: Examples,
    name: str,
    loss: str | Loss,
    options: SharpnessOptions,
    **more: Any,
) -> Measured:
    """One of the measures, as the options have it; `more` for `compute_measure`."""
    return compute_measure(
        network,
        examples,
        name,
        loss,
        probes=options.probes,
        top=options.top,
        rtol=options.rtol,
        target=options.target,
        memory=1e9 * options.memory * examples.devices,
        key=jax.random.key(options.seed),
        **more,
    )


def check_mode(measures: Iterable[str], options: SharpnessOptions):
    """Refuse measures that make no sense with the options.

    **Raises:**

    `UsageError` with the names of these.
    """
    refused = [name for name in measures if MEASURES[name].per_image]
    if options.batch_statistics and refused:
        raise UsageError(
            f"batch statistics couple the examples, so {', '.join(refused)} cannot be "
            "measured with them: leave out --batch-statistics or these measures"
        )
    refused = [name for name in measures if MEASURES[name].whole]
    if options.patterns and refused:
        raise UsageError(
            f"{', '.join(refused)} cannot be measured of some parameters: leave out "
            "--only or these measures"
        )

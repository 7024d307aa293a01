from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import jax

from ..errors import UsageError
from ..measures import MEASURES, check_measures
from ..sharpness import Examples, Measured, Network
from ._measure import measure
from ._measured_network import MeasuredNetwork, SharpnessOptions
from ._row import sharpness_row
from ._work import Show, Warn, Work, silent


def measure_network(
    trained: MeasuredNetwork,
    measures: Iterable[str],
    splits: Iterable[str],
    options: SharpnessOptions,
    *,
    devices: int | None = None,
    report: Show = silent,
    warn: Warn = silent,
) -> dict[str, dict[str, Measured]]:
    """Measure a network on splits, going on where an equal call was interrupted.

    What is done is kept beside the network, every half minute and when `report` raises,
    until `append_measures`.

    **Arguments:**

    - `measures`: names in `eqcifar.measures.MEASURES`, or `all`.
    - `report`: called with split, measure, work done, the whole, and what gives the
        estimate so far. It may raise, to stop.
    - `warn`: called with a line when nothing can be kept.

    **Returns:**

    What was found, by split and measure: the same bits, interrupted or not.

    **Raises:**

    `UsageError` for what cannot be measured with these options.
    """
    measures = check_measures(measures)
    refused = [name for name in measures if MEASURES[name].per_image]
    if options.batch_statistics and refused:
        raise UsageError(
            f"batch statistics couple the examples, so {', '.join(refused)} cannot be "
            "measured with them: leave out --batch-statistics or these measures"
        )
    work = Work(trained, options, "measures", devices=devices, warn=warn)
    network = trained.network(options)
    chosen = {name: trained.examples(name, options, work.mesh) for name in splits}
    found: dict[str, dict[str, Measured]] = {}
    for split, examples in chosen.items():
        found[split] = {}
        with work.keeping(split, partial(report, split)) as (rows, follow):
            for name in measures:
                label = f"{split}-{name}"
                if label not in work.unfinished.finished:
                    measured = measure_examples(
                        trained,
                        network,
                        examples,
                        name,
                        options,
                        rows=rows,
                        report=partial(follow, name),
                    )
                    work.unfinished.finish(label, measured)
                found[split][name] = work.unfinished.finished[label]
    return found


def measure_examples(
    trained: MeasuredNetwork,
    network: Network,
    examples: Examples,
    name: str,
    options: SharpnessOptions,
    **more: Any,
) -> Measured:
    """One of the measures, as the options have it; `more` for `measure`."""
    return measure(
        network,
        examples,
        name,
        trained.loss(options),
        probes=options.probes,
        top=options.top,
        rtol=options.rtol,
        target=options.target,
        memory=1e9 * options.memory * examples.devices,
        key=jax.random.key(options.seed),
        start=trained.start,
        **more,
    )


def append_measures(
    trained: MeasuredNetwork,
    options: SharpnessOptions,
    found: Mapping[str, Mapping[str, Measured]],
    *,
    devices: int | None = None,
):
    """Append what was found to the network's table; it need not be kept elsewhere.

    What was found on other images than those of its training is not appended.

    **Arguments:**

    - `found`: from `measure_network` with the same options and devices.

    **Raises:**

    `RunError` when the table cannot be written; then nothing is lost.
    """
    work = Work(trained, options, "measures", devices=devices)
    work.append(sharpness_row(trained, options, found))

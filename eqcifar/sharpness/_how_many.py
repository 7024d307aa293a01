"""How many examples and probes a wanted precision takes, from a pilot."""

import dataclasses

from jaxtyping import PRNGKeyArray

from eqcifar.losses import AnyLoss

from ._curved import curved_leaves
from ._examples import Examples
from ._network import Network, check_independent
from ._output_traces import output_traces
from ._probe_traces import probe_traces
from ._stopping import Plan, Variances, plan, variances

_PROBES = 8


@dataclasses.dataclass(frozen=True)
class HowMany:
    """What a pilot has found, and what it means for a wanted precision.

    - `examples`: of the pilot.
    - `pilot`: its variances, relative to the squared mean.
    - `random`: the plan with random vectors; `exact`: that without, where there is one,
        at `classes` products an example.
    """

    examples: int
    pilot: Variances
    random: Plan
    exact: Plan | None
    classes: int


def how_many(
    network: Network,
    examples: Examples,
    loss: AnyLoss,
    *,
    rtol: float,
    pilot: int = 128,
    key: PRNGKeyArray,
) -> HowMany:
    """Plan a measurement of tr H (`mse`: also that of the NTK) of a split.

    The paths of `hessian_trace` are planned for.

    **Arguments:**

    - `examples`: in random order; the first `pilot` of them are looked at.
    - `rtol`: half the 95 % interval, relative to the value.

    **Raises:**

    `UsageError` when the whole split is not enough, and when examples are coupled.
    """
    few = examples.take(examples.order[:pilot])
    check_independent(network, few.batch(0).images)
    classes = network.classes(few.batch(0).images)
    size = examples.population
    if not curved_leaves(network, few.batch(0).images[:2]):
        table = output_traces(
            network, few, loss, probes=_PROBES, scaled=("plain",), key=key
        ).table()
        parts = variances(table)
        exact = plan(parts, rtol, size, fresh="exact")
        random = plan(parts, rtol, size, fresh="example")
        return HowMany(len(few), parts, random, exact, classes)
    forms = probe_traces(
        network, few, loss, probes=_PROBES, fresh=False, flip=True, key=key
    ).values
    ggn = output_traces(network, few, loss, scaled=("plain",), key=key)
    parts, batch = variances(ggn.table() + forms["resid"]), examples.batch_size
    random = plan(parts, rtol, size, batch=batch, fresh="batch")
    return HowMany(len(few), parts, random, None, classes)

"""The trace of the Hessian, by the cheapest path that is right for the network."""

import dataclasses
from typing import Literal

import jax
from jaxtyping import PRNGKeyArray, PyTree

from eqcifar.errors import UsageError
from eqcifar.losses import AnyLoss, get_loss

from ._curved import curved_leaves
from ._estimate import Estimate, Target
from ._examples import Examples
from ._memory import MEMORY
from ._network import Network, check_independent
from ._output_traces import OutputTraces, output_traces
from ._pieces import page
from ._probe_traces import probe_traces

Method = Literal["auto", "exact", "control", "general"]


@dataclasses.dataclass(frozen=True)
class HessianTrace:
    """tr H = tr GGN + tr residual, with the path that was taken.

    `curved` names the parameter arrays that rule the exact path out, see
    `curved_leaves`; `outputs` holds its per-example results for attribution.
    """

    hess: Estimate
    ggn: Estimate
    resid: Estimate
    method: Method
    curved: tuple[str, ...]
    outputs: OutputTraces | None


def hessian_trace(
    network: Network,
    examples: Examples,
    loss: AnyLoss,
    *,
    method: Method = "auto",
    probes: int = 0,
    residual_probes: int = 2,
    rtol: float | None = None,
    target: Target = "split",
    memory: float = MEMORY,
    key: PRNGKeyArray,
    outputs: OutputTraces | None = None,
) -> HessianTrace:
    """Estimate tr H, tr GGN and their difference, as means over examples.

    - `exact`: tr H = tr GGN, from `output_traces`. Right when the logits are piecewise
        affine in each parameter array alone, which `curved_leaves` proves.
    - `control`: tr GGN as above plus random directions for the residual alone.
    - `general`: random directions for the whole; the only path that is defined
        under batch statistics.
    - `auto`: the first of these that is right.

    **Arguments:**

    - `probes`: for the GGN, see `output_traces` (0: exact).
    - `residual_probes`: directions a batch, see `probe_traces`.
    - `rtol`, `memory`: see `output_traces`; the residual is then taken over the
        examples that the GGN was.
    - `outputs`: the GGN's traces, where they are known.

    **Raises:**

    `UsageError` when `exact` was asked for and is not proved right.
    """
    loss = get_loss(loss)
    images = examples.batch(0).images[:2]
    if network.batch_statistics and method in ("exact", "control"):
        check_independent(network, images)
    curved = curved_leaves(network, images)
    if method == "exact" and curved:
        raise UsageError(
            f"tr H may not be tr GGN for this network: its logits are curved in "
            f"{curved[0]} taken alone, as in {len(curved)} of {len(network.leaves)} "
            "parameter arrays (smooth activations and shared weights do this). Use "
            "method='auto', which adds the residual"
        )
    if method == "auto":
        without = "control" if curved else "exact"
        method = "general" if network.batch_statistics else without
    ggn_key, residual_key = (jax.random.fold_in(key, i) for i in range(2))
    if method == "general":
        outputs = None
    elif outputs is None:
        with page(f"outputs-{loss.name}"):
            outputs = output_traces(
                network,
                examples,
                loss,
                probes=probes,
                rtol=rtol,
                memory=memory,
                key=ggn_key,
                target=target,
            )
    if outputs is not None:
        ggn = outputs.estimate(target=target)
        if method == "exact":
            resid = Estimate(0.0, target=target, examples=len(outputs.ids))
            return HessianTrace(ggn, ggn, resid, method, curved, outputs)
        examples, rtol = examples.take(outputs.ids), None
    with page(f"probes-{loss.name}-{loss.label_smoothing:g}"):
        forms = probe_traces(
            network,
            examples,
            loss,
            probes=residual_probes,
            rtol=rtol,
            target=target,
            key=residual_key,
        )
    resid = forms.estimate("resid", target=target)
    if outputs is None:
        hess = forms.estimate("hess", target=target)
        ggn = forms.estimate("ggn", target=target)
        return HessianTrace(hess, ggn, resid, method, curved, None)
    ggn = outputs.estimate(target=target)
    hess = forms.controlled(outputs.per_example(), target=target)
    hess = dataclasses.replace(
        hess.with_more_error(ggn.probe_error),
        matvecs=hess.matvecs + ggn.matvecs,
        seconds=hess.seconds + ggn.seconds,
    )
    return HessianTrace(hess, ggn, resid, method, curved, outputs)


def penalty_trace(network: Network, weight_decay: float | PyTree) -> float:
    """Return the trace of the Hessian of 0.5 lambda ||theta||^2: lambda P, exactly.

    Given a tree like `network.params` of each array's own lambda, as
    `training.l2_coefficients` makes it, the sum of lambda times the array's size.
    """
    if isinstance(weight_decay, float):
        return weight_decay * network.size
    each = jax.tree.map(lambda x, of: of * x.size, network.params, weight_decay)
    return sum(jax.tree.leaves(each))

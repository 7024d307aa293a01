"""The six columns of the original project, from exact traces."""

import dataclasses

import numpy as np
from jaxtyping import PRNGKeyArray

from eqcifar.errors import UsageError

from ._estimate import Estimate
from ._examples import Examples
from ._hessian_trace import hessian_trace, penalty_trace
from ._network import Network
from ._output_traces import output_traces
from ._pieces import page

ORIGINAL_DEFECTS = (
    "The loss holds the weight decay, so tr_hess holds lambda * P, which is no "
    "property of the data and ranks networks by their size.",
    "The Hessian of a mean is divided by the batch on one device once more, so tr_hess "
    "is proportional to the number of devices.",
)


@dataclasses.dataclass(frozen=True)
class Original:
    """The original's columns by name, and the factors they hold.

    `penalty` is lambda P and `divisor` the batch on one device.
    """

    columns: dict[str, Estimate]
    penalty: float
    divisor: float
    defects: tuple[str, ...] = ORIGINAL_DEFECTS


def original_traces(
    network: Network,
    train: Examples,
    test: Examples,
    *,
    weight_decay: float,
    batch_size: int,
    devices: int,
    probes: int = 0,
    key: PRNGKeyArray,
) -> Original:
    """Compute what `sungyubkim/cifar_jax` reports, without its Monte Carlo noise.

    With B the total batch, D the devices and the loss 0.5 ||f - onehot||^2:

        tr_hess_{batch, dataset, dataset_te} = (tr H + lambda P) / (B / D)
        tr_ntk_{batch, dataset, dataset_te}  = tr NTK, summed over classes

    over the first B training examples, the training split, the test split. The two
    defects are listed in `defects`: print them beside the numbers.

    **Arguments:**

    - `train`, `test`: the splits in their stored order, without augmentation.
    - `weight_decay`: lambda; the original's default is 5e-4.
    - `probes`: see `output_traces`; 0 is exact.
    """
    if devices < 1 or batch_size % devices:
        raise UsageError(
            f"the original cannot split a batch of {batch_size} over {devices} "
            "devices: name a number that divides it"
        )
    penalty, divisor = penalty_trace(network, weight_decay), batch_size / devices
    columns = {}
    first = train.take(train.order[:batch_size])
    sets = {"batch": first, "dataset": train, "dataset_te": test}
    for name, examples in sets.items():
        # The target is these examples themselves, not the split they came from.
        whole = dataclasses.replace(
            examples,
            images=examples.images[examples.order],
            labels=np.asarray(examples.labels)[examples.order],
            ids=None,
        )
        with page(name):
            result = hessian_trace(network, whole, "mse", probes=probes, key=key)
        columns[f"tr_hess_{name}"] = result.hess.shift(penalty).scale(1 / divisor)
        if result.outputs is None:
            with page(f"{name}-ntk"):
                ntk = output_traces(network, whole, "mse", probes=probes, key=key)
            ntk = ntk.estimate()
        else:
            ntk = result.ggn
        columns[f"tr_ntk_{name}"] = ntk
    order = ("hess_batch", "hess_dataset", "ntk_batch", "ntk_dataset")
    order = (*order, "hess_dataset_te", "ntk_dataset_te")
    return Original({f"tr_{k}": columns[f"tr_{k}"] for k in order}, penalty, divisor)

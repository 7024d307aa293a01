from collections.abc import Callable, Iterable, MutableMapping
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ..config import SharpnessOptions
from ..errors import UsageError
from ..losses import AnyLoss, get_loss
from ..measures import check_measures, usual_measures
from ..parallel import make_mesh
from ..sharpness import Examples, Network, Rows
from ._choose_examples import choose_examples
from ._compute_measure import check_mode, measure_examples
from ._sharpness_table import SharpnessTable


def _as_they_are(images: Any) -> Any:
    return images


def measure(
    model: Any,
    state: Any,
    images: Any,
    labels: Any,
    measures: Iterable[str] = usual_measures(),
    *,
    loss: AnyLoss = "ce",
    prepare: Callable[[Any], Any] = _as_they_are,
    filters: int = -1,
    name: str = "",
    split: str = "given",
    devices: int | None = None,
    report: Callable[..., None] = lambda *_: None,
    **options: Any,
) -> SharpnessTable:
    """Measure the sharpness of any network, as `eqcifar sharpness` does of a run.

    **Arguments:**

    - `model`, `state`: an Equinox module and its `eqx.nn.State`, called as
        `(x, state) -> (logits, state)` on one image; or one without state and `None`,
        called as `x -> logits`; or a function `(parameters, x) -> logits` and its
        parameters, for networks of Flax, Haiku and plain JAX. Modules are measured in
        inference mode, and functions as they are.
    - `images`, `labels`: arrays of n images, and of n whole numbers.
    - `measures`: names in `eqcifar.measures.MEASURES`, or `all`.
    - `loss`: `mse`, `ce`, or a function of the logits and the one-hot label of one
        image, or an `eqcifar.losses.Loss`, with smoothed labels.
    - `prepare`: from a batch of images to what the network sees, such as
        `eqcifar.data.normalise`.
    - `filters`: which axis of a function's weights numbers their outputs: -1 in Flax
        and Haiku, 0 in PyTorch. `tr_ggn_filter` and the random directions of a
        landscape depend on it. Of a module it is 0.
    - `name`, `split`: what tables and pictures call the network and the images.
    - `devices`: how many; all by default.
    - `report`: called with the measure, work done, the whole, and what gives the
        estimate so far. It may raise, to stop.
    - `options`: fields of `eqcifar.config.SharpnessOptions`, such as `samples=0` for
        all images, `probes`, `top`, `target`, `seed`.

    **Returns:**

    A `SharpnessTable`: `print` it, take `values["tr_hess"].interval()`, `plot` it.

    **Raises:**

    `UsageError` for what cannot be measured so, with what to do.
    """
    chosen, loss = check_measures(measures), get_loss(loss)
    wanted = SharpnessOptions.from_dict(options)
    check_mode(chosen, wanted)
    mesh = make_mesh(devices)
    is_module = state is None or isinstance(state, eqx.nn.State)
    if is_module:
        network = _module(model, state, wanted)
    else:
        network = _function(model, state, filters, wanted)
    examples = choose_examples(images, labels, prepare, wanted, mesh, split)
    _check(network, examples)
    rows: MutableMapping[str, Rows] = {}
    found = {}
    for each in chosen:
        found[each] = measure_examples(
            network,
            examples,
            each,
            loss,
            wanted,
            together=chosen,
            rows=rows,
            report=partial(report, each),
        )
    name = name or getattr(model, "__name__", type(model).__name__)
    mode = "each batch" if wanted.batch_statistics else "running statistics"
    size = f"{network.size:,} parameters{wanted.of_what}"
    return SharpnessTable(
        {split: found},
        wanted,
        loss,
        sizes={split: len(labels)},
        title=f"{name}, {size},",
        network=f"{name}, {size}",
        mode=mode if isinstance(state, eqx.nn.State) else "",
    )


def _call_module(module: Any, x: Array, state: Any) -> Array:
    return module(x)


def _module(
    model: Any, state: eqx.nn.State | None, wanted: SharpnessOptions
) -> Network:
    how = {"batch_statistics": wanted.batch_statistics, "only": wanted.patterns}
    if state is None:
        return Network(model, eqx.nn.State(model), call=_call_module, **how)
    return Network(model, state, **how)


def _function(
    function: Callable[..., Array],
    params: PyTree,
    filters: int,
    wanted: SharpnessOptions,
) -> Network:
    """A function of parameters, whose filters the network has on the first axis."""

    def moved(leaf: Array, source: int, to: int) -> Array:
        return jnp.moveaxis(leaf, source, to) if jnp.ndim(leaf) > 1 else leaf

    def call(params: PyTree, x: Array, state: Any) -> Array:
        return function(jax.tree.map(lambda w: moved(w, 0, filters), params), x)

    params = jax.tree.map(lambda w: moved(jnp.asarray(w), filters, 0), params)
    empty = eqx.nn.State(params)
    return Network(
        params,
        empty,
        call=call,
        batch_statistics=wanted.batch_statistics,
        only=wanted.patterns,
    )


def _check(network: Network, examples: Examples):
    """Refuse images and labels of which the numbers would mean nothing."""
    images = examples.batch(0).images
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise UsageError(
            f"images are {images.dtype}: give what the network sees, or "
            "prepare=eqcifar.data.normalise or the like, which makes it of them"
        )
    labels = np.asarray(examples.labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise UsageError(
            f"labels are {labels.dtype} {list(labels.shape)}: give a whole number for "
            "each image"
        )
    apply = jax.vmap(
        lambda x: network.call(network.model, x, network.state), axis_name="batch"
    )
    try:
        logits = eqx.filter_eval_shape(apply, images)
    except (TypeError, ValueError, AttributeError) as error:
        reason = str(error).splitlines() or [type(error).__name__]
        raise UsageError(
            f"the network cannot be called on one image of {list(images.shape[1:])}: "
            f"{reason[0]}"
        ) from error
    if logits.ndim != 2:
        raise UsageError(
            f"of one image, the network returns {list(logits.shape[1:])}: it must be "
            "one number for each class"
        )
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise UsageError(
            f"labels are from {labels.min()} to {labels.max()}, but the network has "
            f"{logits.shape[1]} outputs, numbered from 0"
        )

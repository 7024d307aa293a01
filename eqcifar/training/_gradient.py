import contextlib
import math
from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key, PyTree

from .. import data
from ..data import Dataset
from ..errors import UsageError
from ..parallel import check_batch, split_batch
from ..sam import perturbation
from ._forward import Model, cast, compute_dtype, forward_train, mean_state
from ._recipe import Recipe, Sam
from ._state import TrainState

# Images of CIFAR's size suit every network here, and to ask one takes a while.
_FITS_ALL = 32


class Outcome(eqx.Module):
    """What a batch gives, before the parameters change.

    - `loss`: mean over the batch, without the L2 term.
    - `logits`: of every example.
    - `state`: the model's new state.
    - `gradient`: of `loss`, in the shape of the model's parameters; with SAM, of
        that at a distance.
    """

    loss: Float[Array, ""]
    logits: Float[Array, "batch classes"]
    state: eqx.nn.State
    gradient: PyTree


Gradient = Callable[
    [
        Model,
        eqx.nn.State,
        Float[Array, "batch channels height width"],
        Float[Array, "batch classes"],
        Key[Array, " batch"],
    ],
    Outcome,
]


def batch_loss(
    recipe: Recipe,
    model: Model,
    state: eqx.nn.State,
    inputs: Float[Array, "batch channels height width"],
    targets: Float[Array, "batch classes"],
    keys: Key[Array, " batch"],
    *,
    remat: bool = False,
) -> tuple[Float[Array, ""], tuple[Float[Array, "batch classes"], eqx.nn.State]]:
    """The mean loss of a batch in training mode, without the L2 term.

    **Arguments:**

    - `recipe`: gives the loss and `bn_group`.
    - `model`, `state`: the network.
    - `inputs`, `targets`: the batch. Activations have the dtype of `inputs`, and the
        loss that of `targets`.
    - `keys`, `remat`: see `forward_train`.

    **Returns:**

    The loss, and with it the logits and the new state.
    """
    logits, state = forward_train(
        cast(model, inputs.dtype), state, inputs, keys, recipe.bn_group, remat=remat
    )
    logits = logits.astype(targets.dtype)
    return jnp.mean(jax.vmap(recipe.loss)(logits, targets)), (logits, state)


def make_gradient(
    recipe: Recipe, mesh: Mesh, grad_accum: int = 1, remat: bool = False
) -> Gradient:
    """The gradient of a batch's mean loss, in one piece or in several.

    With `recipe.sam`, it is the mean of what groups of consecutive examples have, each
    at its own worst point: Foret et al., 2021, https://arxiv.org/abs/2010.01412.

    **Arguments:**

    - `recipe`: gives the loss, `bn_group`, `sam` and its `l2`.
    - `mesh`: the devices that share each piece.
    - `grad_accum`: in how many pieces, one after another, of which only one's
        activations are in memory.
    - `remat`: see `forward_train`.

    **Returns:**

    `(model, state, inputs, targets, keys) -> Outcome`, the same for any number of
    pieces up to rounding, if `check_recipe` has found nothing wrong. Activations have
    the dtype of `inputs`, and the loss that of `targets`.
    """

    def gradient(model, state, *batch):
        loss = partial(batch_loss, recipe, remat=remat)
        value_and_grad = eqx.filter_value_and_grad(loss, has_aux=True)
        (value, (logits, state)), grads = value_and_grad(model, state, *batch)
        return Outcome(value, logits, state, grads)

    group = _group(recipe)
    inner = group // _examples_at_a_time(recipe, grad_accum)
    of_group = _averaged(gradient, inner, mesh)
    if recipe.sam is not None:
        of_group = _sharpness_aware(of_group, recipe, recipe.sam)
    return _averaged(of_group, recipe.batch_size // group, mesh)


def _group(recipe: Recipe) -> int:
    """Examples whose gradient is taken at the same parameters."""
    return recipe.batch_size if recipe.sam is None else recipe.sam.group


def _examples_at_a_time(recipe: Recipe, grad_accum: int) -> int:
    """The largest pieces of `grad_accum` or more that groups are made of."""
    return math.gcd(recipe.batch_size // grad_accum, _group(recipe))


def _sharpness_aware(gradient: Gradient, recipe: Recipe, sam: Sam) -> Gradient:
    r"""The gradient at $\theta + \epsilon$, of which an optimiser adds L2 at $\theta$.

    $\epsilon$ is from the gradient of the loss with its L2 term, and so is what is
    taken there, as in https://github.com/google-research/sam. All else is of the pass
    at $\theta$, running statistics too.
    """

    def sharpness_aware(model, state, *batch):
        here = gradient(model, state, *batch)
        parameters = eqx.filter(model, eqx.is_inexact_array)
        l2 = recipe.l2(parameters)
        steepest = jax.tree.map(_add_scaled, here.gradient, l2, parameters)
        epsilon = perturbation(parameters, steepest, sam.radius, adaptive=sam.adaptive)
        there = gradient(eqx.apply_updates(model, epsilon), state, *batch)
        worst = jax.tree.map(_add_scaled, there.gradient, l2, epsilon)
        return Outcome(here.loss, here.logits, here.state, worst)

    return sharpness_aware


def _add_scaled(x: Array, factor: float, y: Array) -> Array:
    return x + factor * y if factor else x


def _averaged(gradient: Gradient, count: int, mesh: Mesh) -> Gradient:
    """The mean over `count` parts of a batch, computed one after another."""

    def averaged(model, state, *batch):
        pieces = jax.tree.map(
            lambda a: a.reshape(count, a.shape[0] // count, *a.shape[1:]), batch
        )

        def add(total, piece):
            # Or pieces would be computed side by side, all in memory at once.
            total, piece = lax.optimization_barrier((total, piece))
            piece = gradient(model, state, *split_batch(piece, mesh))
            total = jax.tree.map(jnp.add, total, piece.gradient)
            return total, (piece.loss, piece.logits, piece.state)

        zero = jax.tree.map(jnp.zeros_like, eqx.filter(model, eqx.is_inexact_array))
        # On the CPU, convolutions in a loop are slower.
        unroll = jax.default_backend() == "cpu"
        total, (losses, logits, states) = lax.scan(add, zero, pieces, unroll=unroll)
        return Outcome(
            jnp.mean(losses),
            logits.reshape(-1, logits.shape[-1]),
            mean_state(states),
            jax.tree.map(lambda g: g / count, total),
        )

    return gradient if count == 1 else averaged


def check_recipe(
    train_state: TrainState,
    dataset: Dataset,
    recipe: Recipe,
    mesh: Mesh,
    grad_accum: int,
):
    """Refuse what a recipe asks of images, batches and devices that they have not.

    Data that `eqcifar.data.check` refuses, crops and squares that are too large, images
    that are too small for the network, and pieces of a batch that would change the
    numbers or cannot be shared.

    **Arguments:**

    - `train_state`: its network tells what images it takes, and whether examples share
        statistics.
    - `dataset`: its images have the size that the network is asked about.
    - `recipe`: gives `batch_size`, `bn_group`, `crop_pad` and `cutout`.
    - `mesh`: the devices that share each piece.
    - `grad_accum`: the number of pieces.

    **Raises:**

    `UsageError` with what would do.
    """
    data.check(dataset)
    if grad_accum < 1 or recipe.batch_size % grad_accum:
        raise UsageError(
            f"grad_accum = {grad_accum}: must be a divisor of the batch size, "
            f"{recipe.batch_size}"
        )
    size = _examples_at_a_time(recipe, grad_accum)
    check_batch(size, mesh)
    height, width = dataset.train.images.shape[1:3]
    if recipe.crop_pad is not None:
        data.check_crops(recipe.crop_pad, (height, width))
    if recipe.cutout > min(height, width):
        raise UsageError(
            f"cannot cut squares of {recipe.cutout} pixels out of images of "
            f"{height}x{width}: give a --cutout of {min(height, width)} at most"
        )
    if min(height, width) < _FITS_ALL:
        _check_network(train_state, dataset)
    fits = 0 < recipe.bn_group <= size and size % recipe.bn_group == 0
    whole = size == recipe.batch_size
    if not whole and not fits and _uses_batch(train_state, dataset):
        share = recipe.bn_group or recipe.batch_size
        by = f"grad_accum = {grad_accum}" if grad_accum > 1 else f"sam_m = {size}"
        raise UsageError(
            f"{by} takes {size} examples at a time, but {share} "
            f"share batch statistics: choose --bn-group {size} or a divisor of it"
        )


def _check_network(train_state: TrainState, dataset: Dataset):
    """Refuse images of which the network leaves nothing."""
    model, state = train_state.moving
    # One may take sums over the batch in inference mode too.
    with contextlib.suppress(NameError):
        _trace_alone(eqx.nn.inference_mode(model), state, dataset)


def _uses_batch(train_state: TrainState, dataset: Dataset) -> bool:
    """Whether an example's output depends on the others of its batch."""
    try:
        _trace_alone(*train_state.moving, dataset)
    except (NameError, UsageError) as error:
        # What is computed over the batch names its axis, which there is not here.
        if isinstance(error.__cause__ or error, NameError):
            return True
        raise
    return False


def _trace_alone(model: Model, state: eqx.nn.State, dataset: Dataset):
    """Give the network the shape of one image, without a batch around it."""
    image_size = dataset.train.images.shape[1:3]
    image = jax.ShapeDtypeStruct((3, *image_size), compute_dtype(model, "f32"))

    def alone(model, state, image, key):
        return model(image, state, key=key)

    eqx.filter_eval_shape(alone, model, state, image, jax.random.key(0))

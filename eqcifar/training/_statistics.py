import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from .. import data
from ..models import BatchNorm
from ..parallel import jit, replicate, split_batch
from ._batch import Epoch
from ._forward import Model, cast, compute_dtype, forward_train
from ._recipe import Recipe


def renew_statistics(
    model: Model, state: eqx.nn.State, epoch: Epoch, recipe: Recipe, mesh: Mesh
) -> eqx.nn.State:
    """Compute the running statistics of every `BatchNorm` anew for other weights.

    They are the means over an epoch's batches of the batches' means and variances, of
    images without augmentation and a network without dropout, in one pass forward:
    those of an average of weights are not the average of theirs. Izmailov et al., 2018,
    section 3.2, https://arxiv.org/abs/1803.05407

    **Arguments:**

    - `model`, `state`: the network; what else is in its state stays.
    - `epoch`: whose order gives the batches.
    - `recipe`: gives their size and number, `bn_group`, normalisation and precision.
    - `mesh`: the devices that share each batch.

    **Returns:**

    The state with the new statistics.
    """
    for norm in _norms(model):
        for index in (norm.running_mean, norm.running_var):
            state = state.set(index, jnp.zeros_like(state.get(index)))
    zero = total = state
    for number in range(recipe.steps_per_epoch):
        place = jnp.asarray(number * recipe.batch_size, jnp.int32)
        place = replicate(place, mesh)
        total = _add_batch(model, zero, total, epoch, place, recipe, mesh)
    return total


@jit
def _add_batch(model, zero, total, epoch, place, recipe, mesh):
    chosen = jax.lax.dynamic_slice_in_dim(epoch.order, place, recipe.batch_size)
    images, view = epoch.images[split_batch(chosen, mesh)], recipe.view
    dtype = compute_dtype(model, view.precision)
    inputs = data.normalise(images, view.mean, view.std, compute_dtype(model, "f32"))
    keys = jax.random.split(jax.random.key(0), recipe.batch_size)  # For nothing.
    network = cast(_without_dropout(model), dtype)
    inputs = inputs.astype(dtype)
    _, moved = forward_train(network, zero, inputs, keys, recipe.bn_group)
    for norm in _norms(model):
        for index in (norm.running_mean, norm.running_var):
            # From 0, a batch moves them by that share of its own.
            share = (1 - norm.momentum) * recipe.steps_per_epoch
            total = total.set(index, total.get(index) + moved.get(index) / share)
    return total


def _norms(model: Model) -> list[BatchNorm]:
    nodes = jax.tree.leaves(model, is_leaf=lambda node: isinstance(node, BatchNorm))
    return [node for node in nodes if isinstance(node, BatchNorm)]


def _without_dropout(model: Model) -> Model:
    def train(node):
        if isinstance(node, BatchNorm):
            return eqx.tree_at(lambda norm: norm.inference, node, False)
        return node

    return jax.tree.map(
        train,
        eqx.nn.inference_mode(model),
        is_leaf=lambda node: isinstance(node, BatchNorm),
    )

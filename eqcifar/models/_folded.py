"""A network's linear layers, with what normalises them as a part of their weights."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from equinox.nn import State
from jaxtyping import Array, Float

from eqcifar.errors import UsageError
from eqcifar.parallel import jit

from ._batch_norm import BatchNorm
from ._conv2d import Conv2d
from ._mlp import MLP
from ._norms import GroupNorm
from ._preact import PreActResNet
from ._resnet import ResNet
from ._vgg import VGG
from ._wide_resnet import WideResNet

_LAYERS = Conv2d, eqx.nn.Conv, eqx.nn.Linear
_NORMS = BatchNorm, GroupNorm
# Of those whose activations are ReLU, unless another was asked for.
_PIECEWISE_LINEAR = VGG, ResNet, WideResNet, PreActResNet, MLP


def folded_weights(model: Any, state: State) -> dict[str, Float[np.ndarray, "_ _"]]:
    r"""The matrix of each convolution and linear layer, by its name.

    Kernels are reshaped to a row for each channel. A BatchNorm that follows a layer
    multiplies its rows by $\gamma / \sqrt{\mathrm{Var} + \epsilon}$, so that the scale
    of what is normalised does not count.

    **Arguments:**

    - `model`, `state`: a network of convolutions and linear layers.

    **Returns:**

    Matrices in float64, in the order of the model's leaves.

    **Raises:**

    `UsageError` for a network without such layers.
    """
    norms, found = _nodes(model, _NORMS), {}
    for name, layer in _nodes(model, _LAYERS).items():
        matrix = np.asarray(layer.weight, np.float64).reshape(len(layer.weight), -1)
        norm = norms.get(_norm_after(model, name))
        if isinstance(norm, BatchNorm):
            matrix = matrix * np.asarray(_scale(norm, state), np.float64)[:, None]
        found[name] = matrix
    if not found:
        raise UsageError(
            f"a {type(model).__name__} has no convolution and no linear layer, whose "
            "weights have a norm"
        )
    return found


def log_path_norm(model: Any, state: State, shape: tuple[int, ...]) -> float:
    r"""The logarithm of $\sum_c f_c(\mathbf 1; \theta^2)$, a sum over squared paths.

    Every weight and bias is squared, of each BatchNorm its scale and its offset; a bias
    before a BatchNorm is part of that offset. In float64, for products over many layers
    leave the range of float32.

    Neyshabur et al., 2015, https://arxiv.org/abs/1506.02617

    **Arguments:**

    - `model`, `state`: of ReLUs, and BatchNorm or no normalisation.
    - `shape`: of an image.

    **Raises:**

    `UsageError` for other networks, where no product of weights is a path's.
    """
    squared = _path_network(model, state)
    with jax.enable_x64(True):
        wide = jax.tree.map(
            lambda leaf: (
                leaf.astype(jnp.float64) if eqx.is_inexact_array(leaf) else leaf
            ),
            squared,
        )
        return float(
            np.log(_sum_of_logits(wide[0], wide[1], jnp.ones(shape, jnp.float64)))
        )


@jit
def _sum_of_logits(model: Any, state: State, image: Array) -> Array:
    return jnp.sum(model(image, state)[0])


def _path_network(model: Any, state: State) -> tuple[Any, State]:
    norms = _nodes(model, _NORMS)
    fits = isinstance(model, _PIECEWISE_LINEAR) and _activations(model) <= {"relu"}
    if not fits or any(isinstance(norm, GroupNorm) for norm in norms.values()):
        raise UsageError(
            "the path norm is of networks of this package with ReLUs, and BatchNorm or "
            "no normalisation"
        )
    # One that is set is used up.
    state = jax.tree.map(lambda leaf: leaf, state)
    # A bias moves the mean that the next BatchNorm takes off.
    for name, layer in _nodes(model, _LAYERS).items():
        norm = norms.get(_norm_after(model, name))
        if norm is not None and layer.bias is not None:
            state = state.set(
                norm.running_mean, state.get(norm.running_mean) - layer.bias
            )
            model = eqx.tree_at(
                lambda m, name=name: _nodes(m, _LAYERS)[name].bias,
                model,
                jnp.zeros_like(layer.bias),
            )
    for name, norm in norms.items():
        scale = _scale(norm, state)
        offset = norm.bias - scale * state.get(norm.running_mean)
        # Its epsilon is added to a variance of 1. All parameters are squared below.
        model = eqx.tree_at(
            lambda m, name=name: (
                _nodes(m, _NORMS)[name].weight,
                _nodes(m, _NORMS)[name].bias,
            ),
            model,
            (scale * (1 + norm.eps) ** 0.25, offset),
        )
        state = state.set(norm.running_mean, jnp.zeros_like(scale))
        state = state.set(norm.running_var, jnp.ones_like(scale))
    squared = jax.tree.map(
        lambda leaf: jnp.square(leaf) if eqx.is_inexact_array(leaf) else leaf, model
    )
    return eqx.nn.inference_mode(squared), state


def _nodes(model: Any, kinds: tuple[type, ...]) -> dict[str, Any]:
    """The layers of some kinds, by the path to them."""
    leaves = jax.tree_util.tree_leaves_with_path(
        model, is_leaf=lambda node: isinstance(node, kinds)
    )
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): node
        for path, node in leaves
        if isinstance(node, kinds)
    }


def _norm_after(model: Any, layer: str) -> str:
    """The name of the normalisation that a layer's output goes to, if there is one."""
    if isinstance(model, WideResNet | PreActResNet):
        return f"{layer[: -len('conv1')]}norm2" if layer.endswith("conv1") else ""
    if layer == "stem":
        return "norm"
    if layer.startswith("stages."):
        return f"{layer[:-1]}1"
    return layer.replace("conv", "norm")


def _scale(norm: BatchNorm, state: State) -> Array:
    return norm.weight / jnp.sqrt(state.get(norm.running_var) + norm.eps)


def _activations(model: Any) -> set[str]:
    blocks = getattr(model, "blocks", ())
    return {part.activation for part in (model, *blocks) if hasattr(part, "activation")}

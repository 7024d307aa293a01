"""Tiny networks with a known Hessian, for the sharpness tests."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from eqcifar import models, sharpness
from eqcifar.sharpness import Examples, Network

CLASSES = 3


class Plain(eqx.Module):
    """Two convolutions and a linear layer, with any activation."""

    layers: list
    activation: Callable

    def __init__(self, activation, *, key):
        keys = jax.random.split(key, 3)
        self.layers = [
            eqx.nn.Conv2d(3, 3, 3, stride=2, key=keys[0]),
            eqx.nn.Conv2d(3, 3, 3, key=keys[1]),
            eqx.nn.Linear(3, CLASSES, key=keys[2]),
        ]
        self.activation = activation

    def __call__(self, x, state, *, key=None):
        x = self.activation(self.layers[0](x))
        x = self.activation(self.layers[1](x))
        return self.layers[2](jnp.sum(x, (1, 2))), state


class Linear(eqx.Module):
    """f = W x + b."""

    layer: eqx.nn.Linear

    def __init__(self, size, *, key):
        self.layer = eqx.nn.Linear(size, CLASSES, key=key)

    def __call__(self, x, state, *, key=None):
        return self.layer(jnp.ravel(x)), state


class UnitLogits(eqx.Module):
    """A network whose logits are divided by their standard deviation."""

    model: Any

    def __call__(self, x, state, *, key=None):
        logits, state = self.model(x, state)
        return logits / jnp.std(logits), state


def make(kind: str) -> tuple[Any, Any]:
    if kind == "resnet":
        build = lambda key: models.ResNet(  # noqa: E731
            CLASSES,
            block="basic",
            shortcut="projection",
            depths=(1, 1),
            channels=(2, 3),
            key=key,
        )
    elif kind == "vgg":
        build = lambda key: models.VGG(  # noqa: E731
            CLASSES, depths=(1, 2), channels=(2, 3), hidden=(4,), key=key
        )
    elif kind == "wrn":
        build = lambda key: models.WideResNet(  # noqa: E731
            CLASSES, depth=10, widen=1, width=1 / 16, dropout=0.3, key=key
        )
    elif kind == "linear":
        build = lambda key: Linear(3 * 8 * 8, key=key)  # noqa: E731
    else:
        activation = {"relu": jax.nn.relu, "gelu": jax.nn.gelu}[kind]
        build = lambda key: Plain(activation, key=key)  # noqa: E731
    return filled(build)


def filled(build: Callable) -> tuple[Any, Any]:
    """A model and its state, with random numbers everywhere.

    By numpy, since drawing every array by itself costs seconds to compile.
    """
    shapes = eqx.filter_eval_shape(eqx.nn.make_with_state(build), jax.random.key(0))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: _fill(x, rng), shapes)


def _fill(leaf, rng):
    if not isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    if len(leaf.shape) < 2:  # scales, shifts and running statistics
        return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), leaf.dtype)
    fan_in = np.prod(leaf.shape[1:])
    return jnp.asarray(rng.normal(0, fan_in**-0.5, leaf.shape), leaf.dtype)


def data(count: int, *, batch_size: int = 4, seed: int = 0) -> Examples:
    rng = np.random.default_rng(seed)
    dtype = jnp.zeros(()).dtype
    images = rng.normal(size=(count, 3, 8, 8)).astype(dtype)
    labels = rng.integers(0, CLASSES, count).astype(np.int32)
    return Examples(images, labels, batch_size=batch_size)


def network(kind: str, **options) -> Network:
    return Network(*make(kind), **options)


class Truth(NamedTuple):
    """Per-example logits f, Jacobian J, second derivative S, and sums of them."""

    f: np.ndarray
    j: np.ndarray
    s: np.ndarray
    labels: np.ndarray

    def inner(self, loss: str):
        """Gradient and Hessian of the loss in the logits, in closed form."""
        onehot = np.eye(CLASSES)[self.labels]
        if loss == "mse":
            return self.f - onehot, np.broadcast_to(np.eye(CLASSES), (*self.f.shape, 3))
        p = np.exp(self.f) / np.exp(self.f).sum(1, keepdims=True)
        return p - onehot, np.einsum("ic,cd->icd", p, np.eye(CLASSES)) - np.einsum(
            "ic,id->icd", p, p
        )

    def ggn(self, loss: str):
        return np.einsum("icp,icd,idq->ipq", self.j, self.inner(loss)[1], self.j)

    def resid(self, loss: str):
        return np.einsum("ic,icpq->ipq", self.inner(loss)[0], self.s)

    def hessian(self, loss: str):
        return self.ggn(loss) + self.resid(loss)


def dense(net: Network, examples: Examples) -> Truth:
    """Form every derivative of the logits by reverse mode, one example at a time."""

    @eqx.filter_jit
    def derivatives(net, image):
        flat, unravel = ravel_pytree(net.params)
        logits = lambda theta: net(unravel(theta), image[None])[0]  # noqa: E731
        back = jax.jacrev(logits)
        return logits(flat), back(flat), jax.jacfwd(back)(flat)

    rows = [derivatives(net, jnp.asarray(x)) for x in examples.images]
    f, j, s = (np.stack(part) for part in zip(*rows, strict=True))
    return Truth(f, j, s, np.asarray(examples.labels))


def mean_loss(net, examples, theta):
    """The mean cross-entropy at other parameters."""
    unravel = ravel_pytree(net.params)[1]
    logits = net(unravel(jnp.asarray(theta)), jnp.asarray(examples.images))
    return float(
        jax.vmap(sharpness.get_loss("ce"))(logits, jnp.asarray(examples.labels)).mean()
    )


def close(a, b, tolerance=1e-10):
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    assert np.abs(a - b).max() <= tolerance * np.abs(b).max(), (a, b)

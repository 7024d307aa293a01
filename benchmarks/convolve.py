"""The convolutions of the library's networks, ready to be timed."""

import time
from typing import Any
from unittest import mock

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from eqcifar import models
from eqcifar.models import _conv2d
from eqcifar.parallel import compiler_options

from .speed import Convolution


class Convolutions:
    """`models.Conv2d` on a batch, compiled as a training step is."""

    def __init__(self, batch: int):
        self.batch = batch
        self.ready: dict[str, Any] = {}

    def shapes(self, arch: str) -> list[Convolution]:
        """Of each convolution of a network, in their order."""
        found: list[Convolution] = []
        inner = _conv2d._convolve

        def convolve(x, weight, stride, padding):
            out_channels, in_channels, kernel, _ = weight.shape
            found.append(
                Convolution(in_channels, out_channels, x.shape[0], kernel, stride)
            )
            return inner(x, weight, stride, padding)

        key, image = jax.random.key(0), jnp.zeros((3, 32, 32))
        shapes = eqx.filter_eval_shape(models.create, arch, 10, key=key)
        with mock.patch.object(_conv2d, "_convolve", convolve):
            model, state = shapes
            model = eqx.nn.inference_mode(model)
            eqx.filter_eval_shape(lambda m, x, s: m(x, s), model, image, state)
        return found

    def prepare(self, shape: Convolution) -> dict[str, np.ndarray]:
        """Compile one; the result and the gradients of images and weights."""
        x, weight, gradient = map(jnp.asarray, shape.arrays(self.batch))
        layer = _conv2d.conv2d(
            shape.in_channels,
            shape.out_channels,
            shape.kernel,
            stride=shape.stride,
            key=jax.random.key(0),
        )

        def forward(x, weight):
            return jax.vmap(eqx.tree_at(lambda layer: layer.weight, layer, weight))(x)

        def images(x, weight, gradient):
            return jax.vjp(lambda x: forward(x, weight), x)[1](gradient)[0]

        def weights(x, weight, gradient):
            return jax.vjp(lambda weight: forward(x, weight), weight)[1](gradient)[0]

        arguments = {
            forward: (x, weight),
            images: (x, weight, gradient),
            weights: (x, weight, gradient),
        }
        self.ready = {
            function.__name__: (
                jax.jit(function, compiler_options=compiler_options()),
                values,
            )
            for function, values in arguments.items()
        }
        return {
            name: np.asarray(function(*values))
            for name, (function, values) in self.ready.items()
        }

    def seconds(self, kind: str, calls: int) -> float:
        """How long so many calls of what was prepared last take."""
        function, values = self.ready[kind]
        begin = time.perf_counter()
        for _ in range(calls):
            jax.block_until_ready(function(*values))
        return time.perf_counter() - begin

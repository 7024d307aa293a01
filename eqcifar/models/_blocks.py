from collections.abc import Callable
from functools import partial
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from equinox.nn import State
from jaxtyping import Array, Float, PRNGKeyArray

from ._activations import ACTIVATIONS
from ._conv2d import Conv2d, conv2d
from ._layers import mean_pool_squares
from ._norms import NORMS, Norm


class ProjectionShortcut(eqx.Module):
    """Matches shapes by a strided 1x1 convolution and BatchNorm: option B."""

    conv: Conv2d
    norm: Norm

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        *,
        norm: str = "batch",
        key: PRNGKeyArray,
    ):
        """Take the channels before and after, the spatial stride and the norm."""
        bias = norm == "none"
        self.conv = conv2d(
            in_channels, out_channels, 1, stride=stride, use_bias=bias, key=key
        )
        self.norm = NORMS[norm](out_channels)

    def __call__(
        self, x: Float[Array, "height width channels"], state: State
    ) -> tuple[Float[Array, "new_height new_width new_channels"], State]:
        """Return the shortcut's value and the new state."""
        return self.norm(self.conv(x), state)


class PaddingShortcut(eqx.Module):
    """Matches shapes without parameters: option A.

    Takes every `stride`-th pixel and appends channels of zeros, or puts half of them
    before and half after.
    """

    zeros_before: int = eqx.field(static=True)
    zeros_after: int = eqx.field(static=True)
    stride: int = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        *,
        centred: bool = False,
        norm: str = "batch",
        key: PRNGKeyArray,
    ):
        """Take the channels before and after, and the spatial stride."""
        del key, norm
        extra = out_channels - in_channels
        self.zeros_before = extra // 2 if centred else 0
        self.zeros_after = extra - self.zeros_before
        self.stride = stride

    def __call__(
        self, x: Float[Array, "height width channels"], state: State
    ) -> tuple[Float[Array, "new_height new_width new_channels"], State]:
        """Return the shortcut's value and the state as it was."""
        x = x[:: self.stride, :: self.stride]
        zeros = self.zeros_before, self.zeros_after
        return jnp.pad(x, ((0, 0), (0, 0), zeros)), state


class PooledShortcut(ProjectionShortcut):
    """Matches shapes by means over squares, a 1x1 convolution and BatchNorm.

    That of ResNet-D: He et al., 2019, https://arxiv.org/abs/1812.01187, figure 2.
    """

    stride: int = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        *,
        norm: str = "batch",
        key: PRNGKeyArray,
    ):
        """Take the channels before and after, the side of the squares and the norm."""
        super().__init__(in_channels, out_channels, 1, norm=norm, key=key)
        self.stride = stride

    def __call__(
        self, x: Float[Array, "height width channels"], state: State
    ) -> tuple[Float[Array, "new_height new_width new_channels"], State]:
        """Return the shortcut's value and the new state."""
        return super().__call__(mean_pool_squares(x, self.stride), state)


Shortcut = ProjectionShortcut | PaddingShortcut


class BasicBlock(eqx.Module):
    """Two 3x3 convolutions; He et al., 2016, figure 5.

    The stride is on the first one, as in the paper, or on the second.
    """

    conv1: Conv2d
    norm1: Norm
    conv2: Conv2d
    norm2: Norm
    shortcut: Shortcut | None
    activation: str = eqx.field(static=True)

    expansion: ClassVar[int] = 1

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        shortcut: Callable[..., Shortcut],
        *,
        late_stride: bool = False,
        activation: str = "relu",
        norm: str = "batch",
        key: PRNGKeyArray,
    ):
        """Make the layers, and a shortcut where the shape changes.

        **Arguments:**

        - `in_channels`: The channels of the input.
        - `channels`: The channels inside; the output has `expansion` times as many.
        - `stride`: The spatial stride.
        - `shortcut`: Makes that shortcut, of its arguments.
        - `late_stride`: Whether the stride is on the second convolution, which then
            is padded as TensorFlow's and Flax's: of an even side only at the end.
        - `activation`, `norm`: As of `ResNet`.
        """
        bias = norm == "none"
        keys = jax.random.split(key, 3)
        first, second = (1, stride) if late_stride else (stride, 1)
        padding = "SAME" if late_stride else None
        self.conv1 = conv2d(
            in_channels, channels, 3, stride=first, use_bias=bias, key=keys[0]
        )
        self.norm1 = NORMS[norm](channels)
        self.conv2 = conv2d(
            channels,
            channels,
            3,
            stride=second,
            padding=padding,
            use_bias=bias,
            key=keys[1],
        )
        self.norm2 = NORMS[norm](channels)
        same = in_channels == channels and stride == 1
        self.shortcut = (
            None
            if same
            else shortcut(in_channels, channels, stride, norm=norm, key=keys[2])
        )
        self.activation = activation

    def __call__(
        self, x: Float[Array, "height width channels"], state: State
    ) -> tuple[Float[Array, "new_height new_width new_channels"], State]:
        """Return the block's value and the new state."""
        activate = ACTIVATIONS[self.activation]
        y, state = self.norm1(self.conv1(x), state)
        y, state = self.norm2(self.conv2(activate(y)), state)
        if self.shortcut is not None:
            x, state = self.shortcut(x, state)
        return activate(x + y), state


class Bottleneck(eqx.Module):
    """1x1, 3x3 and 1x1 convolutions; He et al., 2016, figure 5.

    The stride is on the 3x3 convolution, as in most implementations since the paper's.
    """

    conv1: Conv2d
    norm1: Norm
    conv2: Conv2d
    norm2: Norm
    conv3: Conv2d
    norm3: Norm
    shortcut: Shortcut | None
    activation: str = eqx.field(static=True)

    expansion: ClassVar[int] = 4

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        shortcut: Callable[..., Shortcut],
        *,
        activation: str = "relu",
        norm: str = "batch",
        key: PRNGKeyArray,
    ):
        """Take the arguments of [`BasicBlock`][]."""
        bias = norm == "none"
        keys = jax.random.split(key, 4)
        out_channels = self.expansion * channels
        self.conv1 = conv2d(in_channels, channels, 1, use_bias=bias, key=keys[0])
        self.norm1 = NORMS[norm](channels)
        self.conv2 = conv2d(
            channels, channels, 3, stride=stride, use_bias=bias, key=keys[1]
        )
        self.norm2 = NORMS[norm](channels)
        self.conv3 = conv2d(channels, out_channels, 1, use_bias=bias, key=keys[2])
        self.norm3 = NORMS[norm](out_channels)
        same = in_channels == out_channels and stride == 1
        self.shortcut = (
            None
            if same
            else shortcut(in_channels, out_channels, stride, norm=norm, key=keys[3])
        )
        self.activation = activation

    def __call__(
        self, x: Float[Array, "height width channels"], state: State
    ) -> tuple[Float[Array, "new_height new_width new_channels"], State]:
        """Return the block's value and the new state."""
        activate = ACTIVATIONS[self.activation]
        y, state = self.norm1(self.conv1(x), state)
        y, state = self.norm2(self.conv2(activate(y)), state)
        y, state = self.norm3(self.conv3(activate(y)), state)
        if self.shortcut is not None:
            x, state = self.shortcut(x, state)
        return activate(x + y), state


BLOCKS: dict[str, Callable[..., BasicBlock | Bottleneck]] = {
    "basic": BasicBlock,
    "late-stride": partial(BasicBlock, late_stride=True),
    "bottleneck": Bottleneck,
}
SHORTCUTS: dict[str, Callable[..., Shortcut]] = {
    "padding": PaddingShortcut,
    "centred": partial(PaddingShortcut, centred=True),
    "projection": ProjectionShortcut,
    "pooled": PooledShortcut,
}

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from equinox.nn import State
from jaxtyping import Array, Float, PRNGKeyArray

from ._batch_norm import BatchNorm
from ._conv2d import Conv2d


class ProjectionShortcut(eqx.Module):
    """Matches shapes by a strided 1x1 convolution and BatchNorm: option B."""

    conv: Conv2d
    norm: BatchNorm

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, *, key: PRNGKeyArray
    ):
        """Take the channels before and after, and the spatial stride."""
        self.conv = Conv2d(in_channels, out_channels, 1, stride=stride, key=key)
        self.norm = BatchNorm(out_channels, channel_axis=-1)

    def __call__(
        self, x: Float[Array, "height width channels"], state: State
    ) -> tuple[Float[Array, "new_height new_width new_channels"], State]:
        """Return the shortcut's value and the new state."""
        return self.norm(self.conv(x), state)


class PaddingShortcut(eqx.Module):
    """Matches shapes without parameters: option A.

    Takes every `stride`-th pixel and appends channels of zeros.
    """

    extra_channels: int = eqx.field(static=True)
    stride: int = eqx.field(static=True)

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, *, key: PRNGKeyArray
    ):
        """Take the channels before and after, and the spatial stride."""
        del key
        self.extra_channels = out_channels - in_channels
        self.stride = stride

    def __call__(
        self, x: Float[Array, "height width channels"], state: State
    ) -> tuple[Float[Array, "new_height new_width new_channels"], State]:
        """Return the shortcut's value and the state as it was."""
        x = x[:: self.stride, :: self.stride]
        return jnp.pad(x, ((0, 0), (0, 0), (0, self.extra_channels))), state


Shortcut = ProjectionShortcut | PaddingShortcut


class BasicBlock(eqx.Module):
    """Two 3x3 convolutions, the first with the stride; He et al., 2016, figure 5."""

    conv1: Conv2d
    norm1: BatchNorm
    conv2: Conv2d
    norm2: BatchNorm
    shortcut: Shortcut | None

    expansion: ClassVar[int] = 1

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        shortcut: type[Shortcut],
        *,
        key: PRNGKeyArray,
    ):
        """Make the layers, and a shortcut where the shape changes.

        **Arguments:**

        - `in_channels`: The channels of the input.
        - `channels`: The channels inside; the output has `expansion` times as many.
        - `stride`: The spatial stride.
        - `shortcut`: The class of that shortcut.
        """
        keys = jax.random.split(key, 3)
        self.conv1 = Conv2d(in_channels, channels, 3, stride=stride, key=keys[0])
        self.norm1 = BatchNorm(channels, channel_axis=-1)
        self.conv2 = Conv2d(channels, channels, 3, key=keys[1])
        self.norm2 = BatchNorm(channels, channel_axis=-1)
        same = in_channels == channels and stride == 1
        self.shortcut = (
            None if same else shortcut(in_channels, channels, stride, key=keys[2])
        )

    def __call__(
        self, x: Float[Array, "height width channels"], state: State
    ) -> tuple[Float[Array, "new_height new_width new_channels"], State]:
        """Return the block's value and the new state."""
        y, state = self.norm1(self.conv1(x), state)
        y, state = self.norm2(self.conv2(jax.nn.relu(y)), state)
        if self.shortcut is not None:
            x, state = self.shortcut(x, state)
        return jax.nn.relu(x + y), state


class Bottleneck(eqx.Module):
    """1x1, 3x3 and 1x1 convolutions; He et al., 2016, figure 5.

    The stride is on the 3x3 convolution, as in most implementations since the paper's.
    """

    conv1: Conv2d
    norm1: BatchNorm
    conv2: Conv2d
    norm2: BatchNorm
    conv3: Conv2d
    norm3: BatchNorm
    shortcut: Shortcut | None

    expansion: ClassVar[int] = 4

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        shortcut: type[Shortcut],
        *,
        key: PRNGKeyArray,
    ):
        """Take the arguments of [`BasicBlock`][]."""
        keys = jax.random.split(key, 4)
        out_channels = self.expansion * channels
        self.conv1 = Conv2d(in_channels, channels, 1, key=keys[0])
        self.norm1 = BatchNorm(channels, channel_axis=-1)
        self.conv2 = Conv2d(channels, channels, 3, stride=stride, key=keys[1])
        self.norm2 = BatchNorm(channels, channel_axis=-1)
        self.conv3 = Conv2d(channels, out_channels, 1, key=keys[2])
        self.norm3 = BatchNorm(out_channels, channel_axis=-1)
        same = in_channels == out_channels and stride == 1
        self.shortcut = (
            None if same else shortcut(in_channels, out_channels, stride, key=keys[3])
        )

    def __call__(
        self, x: Float[Array, "height width channels"], state: State
    ) -> tuple[Float[Array, "new_height new_width new_channels"], State]:
        """Return the block's value and the new state."""
        y, state = self.norm1(self.conv1(x), state)
        y, state = self.norm2(self.conv2(jax.nn.relu(y)), state)
        y, state = self.norm3(self.conv3(jax.nn.relu(y)), state)
        if self.shortcut is not None:
            x, state = self.shortcut(x, state)
        return jax.nn.relu(x + y), state

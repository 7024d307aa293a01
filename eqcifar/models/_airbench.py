import math
from collections.abc import Sequence
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from equinox.nn import State
from jaxtyping import Array, Float, PRNGKeyArray

from ._batch_norm import BatchNorm, batch_norm
from ._conv2d import Conv2d, conv2d
from ._layers import (
    channels_last,
    check_image,
    classifier,
    max_over_space,
    max_pool,
    scale_channels,
)

# Both signs of the 12 filters that whiten patches of 2x2.
_FIRST_CHANNELS = 24


class Group(eqx.Module):
    """Two or three convolutions, the first before a 2x2 maximum.

    With three, the others are the branch of a residual.
    """

    conv1: Conv2d
    norm1: BatchNorm
    conv2: Conv2d
    norm2: BatchNorm
    conv3: Conv2d | None
    norm3: BatchNorm | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        depth: Literal[2, 3],
        *,
        key: PRNGKeyArray,
    ):
        """Take the channels before and after, and the number of convolutions."""
        keys = jax.random.split(key, depth)
        self.conv1 = _partial_identity(in_channels, out_channels, key=keys[0])
        self.norm1 = _norm(out_channels)
        self.conv2 = _partial_identity(out_channels, out_channels, key=keys[1])
        self.norm2 = _norm(out_channels)
        self.conv3 = self.norm3 = None
        if depth == 3:
            self.conv3 = _partial_identity(out_channels, out_channels, key=keys[2])
            self.norm3 = _norm(out_channels)

    def __call__(
        self, x: Float[Array, "height width channels"], state: State
    ) -> tuple[Float[Array, "new_height new_width new_channels"], State]:
        """Return the group's value and the new state."""
        x, state = self.norm1(max_pool(self.conv1(x)), state)
        x = _gelu(x)
        y, state = self.norm2(self.conv2(x), state)
        if self.conv3 is not None and self.norm3 is not None:
            y, state = self.norm3(self.conv3(_gelu(y)), state)
            y = x + y
        return _gelu(y), state


class Airbench(eqx.Module):
    """A network to be trained in few epochs: three groups of 3x3 convolutions.

    A first convolution of 2x2, made for filters that whiten (`whiten`). Each group then
    is convolution, 2x2 maximum, BatchNorm, GELU, convolution, BatchNorm and GELU; where
    it has three, the last two, each with its BatchNorm and a GELU between, are a branch
    that is added before the last GELU. The maximum over space of the last group goes to
    the classifier, whose logits are divided by 9.

    Jordan, 2024, https://arxiv.org/abs/2404.00498. There, BatchNorm has no weight, the
    first filters are fixed and their biases after three epochs: here all are trained.
    The classifier starts with variance 1 / fan-in, three times that of the original's.
    """

    first: Conv2d
    groups: tuple[Group, ...]
    classifier: eqx.nn.Linear

    def __init__(
        self,
        num_classes: int,
        *,
        channels: Sequence[int],
        depth: Literal[2, 3] = 2,
        width: float = 1.0,
        key: PRNGKeyArray,
    ):
        """Make the convolutions, and a classifier without bias.

        **Arguments:**

        - `num_classes`: The number of logits.
        - `channels`: The channels of each group.
        - `depth`: The convolutions of each group.
        - `width`: Multiplies the groups' channels, not the 24 of the first convolution.
        - `key`: For the initial weights.
        """
        keys = jax.random.split(key, len(channels) + 2)
        size = _FIRST_CHANNELS
        self.first = conv2d(3, size, 2, padding=0, use_bias=True, key=keys[0])
        groups = []
        for out_channels, key in zip(channels, keys[1:], strict=False):
            in_channels, size = size, scale_channels(out_channels, width)
            groups.append(Group(in_channels, size, depth, key=key))
        self.groups = tuple(groups)
        self.classifier = classifier(size, num_classes, use_bias=False, key=keys[-1])

    def __call__(
        self,
        x: Float[Array, "3 height width"],
        state: State,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, " classes"], State]:
        """Classify one image.

        **Arguments:**

        - `x`: One normalised image in the dtype of the parameters.
        - `state`: Holds the running statistics.
        - `key`: Ignored; every model takes one.

        **Returns:**

        The logits and the new state.

        **Raises:**

        A `UsageError` when nothing of the image is left to pool: with three groups,
        when it is smaller than 9x9.
        """
        del key
        check_image(x, 2 ** len(self.groups) + 1)
        x = _gelu(self.first(channels_last(x)))
        for group in self.groups:
            x, state = group(x, state)
        return self.classifier(max_over_space(x)) / 9, state


def _partial_identity(
    in_channels: int, out_channels: int, *, key: PRNGKeyArray
) -> Conv2d:
    """Make a convolution whose first channels start as those of its input.

    The others have variance 1 / (3 fan-in), as PyTorch's; section 3.3 of the paper.
    """
    layer = conv2d(in_channels, out_channels, 3, key=key)
    same = jnp.arange(min(in_channels, out_channels))
    weight = (layer.weight / math.sqrt(6)).at[same].set(0).at[same, same, 1, 1].set(1)
    return eqx.tree_at(lambda layer: layer.weight, layer, weight)


def _norm(channels: int) -> BatchNorm:
    # Statistics that follow quickly, for there are few steps.
    return batch_norm(channels, momentum=0.6)


def _gelu(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=False)

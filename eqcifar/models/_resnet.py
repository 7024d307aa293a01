from collections.abc import Sequence

import equinox as eqx
import jax
from equinox.nn import State
from jaxtyping import Array, Float, PRNGKeyArray

from ._batch_norm import BatchNorm
from ._blocks import BasicBlock, Bottleneck, Shortcut
from ._conv2d import Conv2d
from ._layers import channels_last, classifier, mean_pool, scale_channels


class ResNet(eqx.Module):
    """A residual network with the CIFAR stem: one 3x3 convolution and no pooling.

    With s stages, the features after the last block are
    `Float[Array, "expansion*channels[-1] height/2**(s-1) width/2**(s-1)"]`, rounded up.

    He et al., 2016, https://arxiv.org/abs/1512.03385
    """

    stem: Conv2d
    norm: BatchNorm
    blocks: tuple[BasicBlock | Bottleneck, ...]
    classifier: eqx.nn.Linear

    def __init__(
        self,
        num_classes: int,
        *,
        block: type[BasicBlock] | type[Bottleneck],
        shortcut: type[Shortcut],
        depths: Sequence[int],
        channels: Sequence[int],
        width: float = 1.0,
        key: PRNGKeyArray,
    ):
        """Make the stem, the stages of blocks and the classifier.

        **Arguments:**

        - `num_classes`: The number of logits.
        - `block`: Makes a residual block.
        - `shortcut`: Makes the shortcut of a block that changes the shape.
        - `depths`: The number of blocks in each stage.
        - `channels`: The channels inside the blocks of each stage. Every stage but the
            first halves the image.
        - `width`: Multiplies all channels.
        """
        keys = iter(jax.random.split(key, sum(depths) + 2))
        widths = [scale_channels(c, width) for c in channels]
        self.stem = Conv2d(3, widths[0], 3, key=next(keys))
        self.norm = BatchNorm(widths[0], channel_axis=-1)
        blocks = []
        in_channels = widths[0]
        for stage, (depth, size) in enumerate(zip(depths, widths, strict=True)):
            for i in range(depth):
                stride = 2 if stage > 0 and i == 0 else 1
                blocks.append(
                    block(in_channels, size, stride, shortcut, key=next(keys))
                )
                in_channels = block.expansion * size
        self.blocks = tuple(blocks)
        self.classifier = classifier(in_channels, num_classes, key=next(keys))

    def __call__(
        self,
        x: Float[Array, "3 height width"],
        state: State,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, " classes"], State]:
        """Classify one image.

        **Arguments:**

        - `x`: One normalised image, of any size, in the dtype of the parameters.
        - `state`: Holds the running statistics.
        - `key`: Ignored; every model takes one.

        **Returns:**

        The logits and the new state.
        """
        del key
        x, state = self.norm(self.stem(channels_last(x)), state)
        x = jax.nn.relu(x)
        for block in self.blocks:
            x, state = block(x, state)
        return self.classifier(mean_pool(x)), state

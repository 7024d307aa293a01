from collections.abc import Sequence
from typing import Literal

import equinox as eqx
import jax
from equinox.nn import State
from jaxtyping import Array, Float, PRNGKeyArray

from ._activations import ACTIVATIONS
from ._blocks import BLOCKS, SHORTCUTS, BasicBlock, Bottleneck
from ._conv2d import Conv2d, conv2d
from ._layers import channels_last, classifier, mean_pool, scale_channels
from ._norms import NORMS, Norm


class ResNet(eqx.Module):
    """A residual network with the CIFAR stem: one 3x3 convolution and no pooling.

    With s stages, the features after the last block are
    `Float[Array, "expansion*channels[-1] height/2**(s-1) width/2**(s-1)"]`, rounded up.

    He et al., 2016, https://arxiv.org/abs/1512.03385
    """

    stem: Conv2d
    norm: Norm
    blocks: tuple[BasicBlock | Bottleneck, ...]
    classifier: eqx.nn.Linear
    activation: str = eqx.field(static=True)

    def __init__(
        self,
        num_classes: int,
        *,
        block: Literal["basic", "late-stride", "bottleneck"],
        shortcut: Literal["padding", "centred", "projection", "pooled"],
        depths: Sequence[int],
        channels: Sequence[int],
        stem: int | None = None,
        width: float = 1.0,
        activation: Literal["relu", "gelu", "tanh", "elu", "silu"] = "relu",
        norm: Literal["batch", "group", "layer", "none"] = "batch",
        key: PRNGKeyArray,
    ):
        """Make the stem, the stages of blocks and the classifier.

        **Arguments:**

        - `num_classes`: The number of logits.
        - `block`: Two 3x3 convolutions, the stride on the first ("basic") or on the
            second ("late-stride"), or 1x1, 3x3 and 1x1 ("bottleneck").
        - `shortcut`: Of a block that changes the shape: pixels left out and channels of
            zeros at the end ("padding", option A of the paper) or half of them at each
            ("centred", as in akamaster/pytorch_resnet_cifar10), a strided 1x1
            convolution ("projection", option B), or one after means over squares
            ("pooled", that of ResNet-D, https://arxiv.org/abs/1812.01187).
        - `depths`: The number of blocks in each stage.
        - `channels`: The channels inside the blocks of each stage. Every stage but the
            first halves the image.
        - `stem`: The channels of the first convolution; as those of the first stage.
        - `width`: Multiplies all channels.
        - `activation`: After each normalisation.
        - `norm`: After each convolution: over the batch, over groups of channels (as
            many as 32 and the channels have in common), over all channels of an
            example, or none, where convolutions have biases.
        - `key`: For the initial weights.
        """
        keys = iter(jax.random.split(key, sum(depths) + 2))
        widths = [scale_channels(c, width) for c in channels]
        in_channels = widths[0] if stem is None else scale_channels(stem, width)
        self.stem = conv2d(3, in_channels, 3, use_bias=norm == "none", key=next(keys))
        self.norm = NORMS[norm](in_channels)
        make_block = BLOCKS[block]
        blocks = []
        for stage, (depth, size) in enumerate(zip(depths, widths, strict=True)):
            for i in range(depth):
                stride = 2 if stage > 0 and i == 0 else 1
                blocks.append(
                    make_block(
                        in_channels,
                        size,
                        stride,
                        SHORTCUTS[shortcut],
                        activation=activation,
                        norm=norm,
                        key=next(keys),
                    )
                )
                in_channels = blocks[-1].expansion * size
        self.blocks = tuple(blocks)
        self.classifier = classifier(in_channels, num_classes, key=next(keys))
        self.activation = activation

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
        x = ACTIVATIONS[self.activation](x)
        for block in self.blocks:
            x, state = block(x, state)
        return self.classifier(mean_pool(x)), state

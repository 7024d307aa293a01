from collections.abc import Sequence

import equinox as eqx
import jax
from equinox.nn import State
from jaxtyping import Array, Float, PRNGKeyArray

from ._conv2d import Conv2d, conv2d
from ._layers import channels_last, classifier, mean_pool, scale_channels
from ._wide_resnet import PreActivationBlock


class PreActResNet(eqx.Module):
    """A residual network whose blocks begin with normalisation and activation.

    Nothing is between the last block and the mean over space, as in
    kuangliu/pytorch-cifar; the paper has a normalisation and an activation there.

    He et al., 2016, https://arxiv.org/abs/1603.05027
    """

    stem: Conv2d
    blocks: tuple[PreActivationBlock, ...]
    classifier: eqx.nn.Linear

    def __init__(
        self,
        num_classes: int,
        *,
        depths: Sequence[int],
        channels: Sequence[int] = (64, 128, 256, 512),
        width: float = 1.0,
        activation: str = "relu",
        norm: str = "batch",
        key: PRNGKeyArray,
    ):
        """Make the stem, the stages of blocks and the classifier.

        **Arguments:**

        - `num_classes`: The number of logits.
        - `depths`, `channels`: Of blocks in each stage; all stages but the first halve
            the image.
        - `width`: Multiplies all channels.
        - `activation`, `norm`: As of [`ResNet`][].
        - `key`: For the initial weights.
        """
        keys = iter(jax.random.split(key, sum(depths) + 2))
        widths = [scale_channels(c, width) for c in channels]
        size, bias = widths[0], norm == "none"
        self.stem = conv2d(3, size, 3, use_bias=bias, key=next(keys))
        blocks = []
        for stage, (depth, out_channels) in enumerate(zip(depths, widths, strict=True)):
            for i in range(depth):
                in_channels, size = size, out_channels
                blocks.append(
                    PreActivationBlock(
                        in_channels,
                        size,
                        2 if stage > 0 and i == 0 else 1,
                        0.0,
                        activation=activation,
                        norm=norm,
                        key=next(keys),
                    )
                )
        self.blocks = tuple(blocks)
        self.classifier = classifier(size, num_classes, key=next(keys))

    def __call__(
        self,
        x: Float[Array, "3 height width"],
        state: State,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, " classes"], State]:
        """Classify one image; the arguments are those of [`ResNet`][]."""
        del key
        x = self.stem(channels_last(x))
        for block in self.blocks:
            x, state = block(x, state)
        return self.classifier(mean_pool(x)), state

from collections.abc import Sequence

import equinox as eqx
import jax
from equinox.nn import State
from jaxtyping import Array, Float, PRNGKeyArray

from ._activations import ACTIVATIONS
from ._conv2d import Conv2d, conv2d
from ._layers import (
    channels_last,
    check_image,
    classifier,
    hidden_linear,
    max_pool,
    mean_pool,
    scale_channels,
)
from ._norms import NORMS, Norm


class VGG(eqx.Module):
    """Stages of 3x3 convolution, BatchNorm and ReLU, each ended by a 2x2 maximum.

    Five stages take an image of 32x32 to `Float[Array, "channels[-1] 1 1"]`. The
    convolutions keep the biases of the paper, though BatchNorm cancels them in
    training.

    Simonyan & Zisserman, 2015, https://arxiv.org/abs/1409.1556
    """

    stages: tuple[tuple[tuple[Conv2d, Norm], ...], ...]
    hidden: tuple[eqx.nn.Linear, ...]
    classifier: eqx.nn.Linear
    activation: str = eqx.field(static=True)

    def __init__(
        self,
        num_classes: int,
        *,
        depths: Sequence[int],
        channels: Sequence[int] = (64, 128, 256, 512, 512),
        hidden: Sequence[int] = (),
        width: float = 1.0,
        activation: str = "relu",
        norm: str = "batch",
        key: PRNGKeyArray,
    ):
        """Make the stages, the hidden layers and the classifier.

        **Arguments:**

        - `num_classes`: The number of logits.
        - `depths`: The number of convolutions in each stage.
        - `channels`: The channels of each stage.
        - `hidden`: The sizes of the linear layers, each followed by a ReLU, before
            the classifier.
        - `width`: Multiplies all channels and hidden sizes.
        - `activation`, `norm`: As of [`ResNet`][]; convolutions always have biases.
        - `key`: For the initial weights.
        """
        keys = iter(jax.random.split(key, sum(depths) + len(hidden) + 1))
        size = 3
        stages = []
        for depth, out_channels in zip(depths, channels, strict=True):
            stage = []
            for _ in range(depth):
                in_channels, size = size, scale_channels(out_channels, width)
                layer = conv2d(in_channels, size, 3, use_bias=True, key=next(keys))
                stage.append((layer, NORMS[norm](size)))
            stages.append(tuple(stage))
        self.stages = tuple(stages)
        linears = []
        for features in hidden:
            in_features, size = size, scale_channels(features, width)
            linears.append(hidden_linear(in_features, size, key=next(keys)))
        self.hidden = tuple(linears)
        self.classifier = classifier(size, num_classes, key=next(keys))
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

        - `x`: One normalised image in the dtype of the parameters, of 32x32 pixels. On
            larger images the last features are averaged over space.
        - `state`: Holds the running statistics.
        - `key`: Ignored; every model takes one.

        **Returns:**

        The logits and the new state.

        **Raises:**

        A `UsageError` when nothing of the image is left to pool: with five stages, when
        it is smaller than 32x32.
        """
        del key
        check_image(x, 2 ** len(self.stages))
        x, activate = channels_last(x), ACTIVATIONS[self.activation]
        for stage in self.stages:
            for layer, norm in stage:
                x, state = norm(layer(x), state)
                x = activate(x)
            x = max_pool(x)
        features = mean_pool(x)
        for linear in self.hidden:
            features = activate(linear(features))
        return self.classifier(features), state

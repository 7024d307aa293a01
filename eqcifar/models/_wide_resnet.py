import equinox as eqx
import jax
from equinox.nn import State
from jaxtyping import Array, Float, PRNGKeyArray

from eqcifar.errors import UsageError

from ._activations import ACTIVATIONS
from ._conv2d import Conv2d, conv2d
from ._layers import channels_last, classifier, mean_pool, scale_channels
from ._norms import NORMS, Norm


class PreActivationBlock(eqx.Module):
    """BatchNorm, ReLU, 3x3 convolution, twice, with dropout before the second one.

    Where the shape changes, the shortcut is a 1x1 convolution of the block's first
    activation, not of its input.
    """

    norm1: Norm
    conv1: Conv2d
    norm2: Norm
    dropout: eqx.nn.Dropout
    conv2: Conv2d
    shortcut: Conv2d | None
    activation: str = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        dropout: float,
        *,
        activation: str = "relu",
        norm: str = "batch",
        key: PRNGKeyArray,
    ):
        """Make the layers, and a shortcut where the shape changes.

        **Arguments:**

        - `in_channels`: The channels of the input.
        - `channels`: The channels of the output.
        - `stride`: The spatial stride.
        - `dropout`: The chance of a value to be dropped.
        - `activation`, `norm`: As of `ResNet`.
        """
        bias = norm == "none"
        keys = jax.random.split(key, 3)
        self.norm1 = NORMS[norm](in_channels)
        self.conv1 = conv2d(
            in_channels, channels, 3, stride=stride, use_bias=bias, key=keys[0]
        )
        self.norm2 = NORMS[norm](channels)
        self.dropout = eqx.nn.Dropout(dropout)
        self.conv2 = conv2d(channels, channels, 3, use_bias=bias, key=keys[1])
        if in_channels == channels and stride == 1:
            self.shortcut = None
        else:
            self.shortcut = conv2d(
                in_channels, channels, 1, stride=stride, use_bias=bias, key=keys[2]
            )
        self.activation = activation

    def __call__(
        self,
        x: Float[Array, "height width channels"],
        state: State,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "new_height new_width new_channels"], State]:
        """Return the block's value and the new state; `key` is for the dropout."""
        activate = ACTIVATIONS[self.activation]
        y, state = self.norm1(x, state)
        y = activate(y)
        shortcut = x if self.shortcut is None else self.shortcut(y)
        y, state = self.norm2(self.conv1(y), state)
        y = self.conv2(self.dropout(activate(y), key=key))
        return shortcut + y, state


class WideResNet(eqx.Module):
    """A pre-activation residual network that is wide rather than deep.

    The features after the last block are `Float[Array, "64*k height/4 width/4"]`,
    rounded up.

    Zagoruyko & Komodakis, 2016, https://arxiv.org/abs/1605.07146
    """

    stem: Conv2d
    blocks: tuple[PreActivationBlock, ...]
    norm: Norm
    classifier: eqx.nn.Linear
    activation: str = eqx.field(static=True)

    def __init__(
        self,
        num_classes: int,
        *,
        depth: int,
        widen: int,
        dropout: float = 0.0,
        width: float = 1.0,
        activation: str = "relu",
        norm: str = "batch",
        key: PRNGKeyArray,
    ):
        """Make the stem, three stages of blocks and the classifier.

        **Arguments:**

        - `num_classes`: The number of logits.
        - `depth`: The number of convolutions, shortcuts left out, and the classifier:
            6n + 4 for n blocks in each of the three stages.
        - `widen`: The paper's k: the stages have 16k, 32k and 64k channels.
        - `dropout`: The chance of a value between two convolutions to be dropped in
            training.
        - `width`: Multiplies all channels, those of the stem too.
        - `activation`, `norm`: As of [`ResNet`][].
        - `key`: For the initial weights.

        **Raises:**

        A `UsageError` when the depth or `widen` does not fit.
        """
        if depth < 10 or (depth - 4) % 6 != 0:
            below = max(10, depth - (depth - 4) % 6)
            raise UsageError(
                f"a wide ResNet cannot be {depth} layers deep: the depth is 6n + 4 "
                f"(10, 16, 22, 28, 34, 40, ...); nearest: {below}"
                + (f" or {below + 6}" if below < depth else "")
            )
        if widen < 1:
            raise UsageError(f"a wide ResNet is at least 1 wide, not {widen}")
        blocks_per_stage = (depth - 4) // 6
        keys = iter(jax.random.split(key, 3 * blocks_per_stage + 2))
        in_channels = scale_channels(16, width)
        self.stem = conv2d(3, in_channels, 3, use_bias=norm == "none", key=next(keys))
        blocks = []
        for stage in range(3):
            channels = scale_channels(16 * 2**stage * widen, width)
            for i in range(blocks_per_stage):
                stride = 2 if stage > 0 and i == 0 else 1
                blocks.append(
                    PreActivationBlock(
                        in_channels,
                        channels,
                        stride,
                        dropout,
                        activation=activation,
                        norm=norm,
                        key=next(keys),
                    )
                )
                in_channels = channels
        self.blocks = tuple(blocks)
        self.norm = NORMS[norm](in_channels)
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
        - `key`: For the dropout, and only needed with it: another one for each
            example, or all lose the same values.

        **Returns:**

        The logits and the new state.
        """
        n = len(self.blocks)
        keys = [None] * n if key is None else jax.random.split(key, n)
        x = self.stem(channels_last(x))
        for block, block_key in zip(self.blocks, keys, strict=True):
            x, state = block(x, state, key=block_key)
        x, state = self.norm(x, state)
        x = ACTIVATIONS[self.activation](x)
        return self.classifier(mean_pool(x)), state

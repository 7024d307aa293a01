from collections.abc import Sequence

import equinox as eqx
import jax
from equinox.nn import State
from jaxtyping import Array, Float, PRNGKeyArray

from eqcifar.errors import UsageError

from ._activations import ACTIVATIONS
from ._layers import classifier, hidden_linear, scale_channels


class MLP(eqx.Module):
    """Linear layers of all pixels, an activation after each but the last.

    By default LeNet-300-100: LeCun et al., 1998, "Gradient-based learning applied to
    document recognition", section III.
    """

    hidden: tuple[eqx.nn.Linear, ...]
    classifier: eqx.nn.Linear
    activation: str = eqx.field(static=True)

    def __init__(
        self,
        num_classes: int,
        *,
        hidden: Sequence[int] = (300, 100),
        features: int = 3 * 32 * 32,
        width: float = 1.0,
        activation: str = "relu",
        key: PRNGKeyArray,
    ):
        """Make the layers.

        **Arguments:**

        - `num_classes`: The number of logits.
        - `hidden`: The sizes of the layers before the last.
        - `features`: The numbers of an image.
        - `width`: Multiplies the sizes.
        - `activation`: As of [`ResNet`][].
        - `key`: For the initial weights.
        """
        keys = jax.random.split(key, len(hidden) + 1)
        sizes = [features, *(scale_channels(size, width) for size in hidden)]
        self.hidden = tuple(
            hidden_linear(a, b, key=k)
            for a, b, k in zip(sizes, sizes[1:], keys[:-1], strict=False)
        )
        self.classifier = classifier(sizes[-1], num_classes, key=keys[-1])
        self.activation = activation

    def __call__(
        self,
        x: Float[Array, "channels height width"],
        state: State,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, " classes"], State]:
        """Classify one image, of the size that it was made for.

        The arguments are those of [`ResNet`][].

        **Raises:**

        A `UsageError` for an image of another size.
        """
        del key
        layers = *self.hidden, self.classifier
        if x.size != layers[0].in_features:
            raise UsageError(
                f"an image of {x.size} numbers is not of the {layers[0].in_features} "
                "that this network takes"
            )
        y = x.reshape(-1)
        for layer in self.hidden:
            y = ACTIVATIONS[self.activation](layer(y))
        return self.classifier(y), state

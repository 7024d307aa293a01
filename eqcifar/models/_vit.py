import math

import equinox as eqx
import jax
import jax.numpy as jnp
from equinox.nn import State
from jaxtyping import Array, Float, PRNGKeyArray

from eqcifar.errors import UsageError

from ._activations import ACTIVATIONS
from ._conv2d import Conv2d, conv2d
from ._layers import channels_last, classifier, normal, scale_channels


class EncoderBlock(eqx.Module):
    """Attention, then two linear layers, each of the normalised sum so far."""

    norm1: eqx.nn.LayerNorm
    qkv: eqx.nn.Linear
    proj: eqx.nn.Linear
    norm2: eqx.nn.LayerNorm
    fc1: eqx.nn.Linear
    fc2: eqx.nn.Linear
    heads: int = eqx.field(static=True)

    def __init__(self, size: int, heads: int, *, key: PRNGKeyArray):
        """Take the numbers of a token, and how many heads share them."""
        keys = jax.random.split(key, 4)
        self.norm1 = eqx.nn.LayerNorm(size, eps=1e-6)
        self.qkv = classifier(size, 3 * size, key=keys[0])
        self.proj = classifier(size, size, key=keys[1])
        self.norm2 = eqx.nn.LayerNorm(size, eps=1e-6)
        self.fc1 = classifier(size, 4 * size, key=keys[2])
        self.fc2 = classifier(4 * size, size, key=keys[3])
        self.heads = heads

    def __call__(self, x: Float[Array, "tokens size"]) -> Float[Array, "tokens size"]:
        """Return the tokens after attention and the layers."""
        x = x + self._attend(jax.vmap(self.norm1)(x))
        y = jax.vmap(self.fc1)(jax.vmap(self.norm2)(x))
        return x + jax.vmap(self.fc2)(ACTIVATIONS["gelu"](y))

    def _attend(self, x: Float[Array, "tokens size"]) -> Float[Array, "tokens size"]:
        tokens, size = x.shape
        shape = tokens, 3, self.heads, size // self.heads
        query, key, value = jnp.moveaxis(jax.vmap(self.qkv)(x).reshape(shape), 1, 0)
        scores = jnp.einsum("qhd,khd->hqk", query, key) / math.sqrt(shape[-1])
        mixed = jnp.einsum("hqk,khd->qhd", jax.nn.softmax(scores), value)
        return jax.vmap(self.proj)(mixed.reshape(tokens, size))


class ViT(eqx.Module):
    """A vision transformer: patches of the image and a token of the class.

    Dosovitskiy et al., 2021, https://arxiv.org/abs/2010.11929; sizes by default of
    DeiT-Ti, Touvron et al., 2021, https://arxiv.org/abs/2012.12877.
    """

    cls_token: Float[Array, "1 1 size"]
    pos_embed: Float[Array, "1 tokens size"]
    patch: Conv2d
    blocks: tuple[EncoderBlock, ...]
    norm: eqx.nn.LayerNorm
    classifier: eqx.nn.Linear

    def __init__(
        self,
        num_classes: int,
        *,
        image: int = 32,
        patch: int = 4,
        size: int = 192,
        depth: int = 12,
        heads: int = 3,
        width: float = 1.0,
        key: PRNGKeyArray,
    ):
        """Make the patches' projection, the blocks and the classifier.

        **Arguments:**

        - `num_classes`: The number of logits.
        - `image`, `patch`: The sides of an image and of a patch, in pixels.
        - `size`: The numbers of a token.
        - `depth`: The number of blocks.
        - `heads`: Of attention in each.
        - `width`: Multiplies `size`, rounded to a multiple of the heads.
        - `key`: For the initial weights: variance 1 / fan-in, and a standard deviation
            of 0.02 for the token and the positions.
        """
        keys = jax.random.split(key, depth + 4)
        size = heads * scale_channels(size // heads, width)
        tokens = (image // patch) ** 2 + 1
        self.cls_token = normal(keys[0], (1, 1, size), 0.02)
        self.pos_embed = normal(keys[1], (1, tokens, size), 0.02)
        layer = conv2d(
            3, size, patch, stride=patch, padding=0, use_bias=True, key=keys[2]
        )
        # He's variance is for what an activation follows.
        halved = layer.weight / math.sqrt(2)
        self.patch = eqx.tree_at(lambda x: x.weight, layer, halved)
        self.blocks = tuple(EncoderBlock(size, heads, key=k) for k in keys[3:-1])
        self.norm = eqx.nn.LayerNorm(size, eps=1e-6)
        self.classifier = classifier(size, num_classes, key=keys[-1])

    def __call__(
        self,
        x: Float[Array, "3 height width"],
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
        patches = self.patch(channels_last(x)).reshape(-1, self.cls_token.shape[-1])
        if len(patches) + 1 != self.pos_embed.shape[1]:
            raise UsageError(
                f"an image of {len(patches)} patches is not of the "
                f"{self.pos_embed.shape[1] - 1} that this network takes"
            )
        tokens = jnp.concatenate([self.cls_token[0], patches]) + self.pos_embed[0]
        for block in self.blocks:
            tokens = block(tokens)
        return self.classifier(self.norm(tokens[0])), state

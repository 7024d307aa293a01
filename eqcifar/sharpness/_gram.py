"""The spectrum of the NTK on a sample."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from eqcifar.errors import UsageError
from eqcifar.parallel import jit

from ._examples import Examples
from ._memory import MEMORY
from ._network import Network, check_independent


def ntk_gram(
    network: Network, examples: Examples, *, memory: float = MEMORY
) -> Float[np.ndarray, "rows rows"]:
    """Form the NTK Gram matrix J J' / n of n examples.

    Rows are (example, class) pairs, the class running fastest. Its nonzero
    eigenvalues are those of the GGN of `mse` over the same examples, and its trace is
    tr_ntk. Gradients are formed in blocks that fit `memory` and each pair of blocks is
    multiplied, so the cost grows with the square of the number of blocks.
    """
    images = [examples.with_batch_size(1).batch(i).images for i in range(len(examples))]
    stack = jnp.concatenate(images)
    check_independent(network, stack)
    classes = network.classes(stack[:1])
    each = classes * network.size * stack.dtype.itemsize
    block = int(memory // (2 * each))
    if block < 1:
        raise UsageError(
            f"One example's gradients take {each / 1e9:.2g} GB twice, more than the "
            f"{memory / 1e9:.2g} GB allowed: allow more memory."
        )
    block = min(block, len(stack))
    count = -(-len(stack) // block)
    padded = jnp.concatenate(
        [stack, jnp.repeat(stack[:1], count * block - len(stack), 0)]
    )
    parts = padded.reshape(count, block, *stack.shape[1:])
    rows = np.zeros((count, block * classes, count, block * classes))
    for i in range(count):
        left = _jacobian(network, parts[i])
        for j in range(i, count):
            right = left if i == j else _jacobian(network, parts[j])
            rows[i, :, j] = np.asarray(_outer(left, right))
            rows[j, :, i] = rows[i, :, j].T
    size = len(stack) * classes
    return rows.reshape(count * block * classes, -1)[:size, :size] / len(stack)


@jit
def _jacobian(network: Network, images: Array) -> list[Array]:
    def one(image: Array) -> list[Array]:
        back = jax.jacrev(lambda p: network(p, image[None])[0])(network.params)
        return [leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(back)]

    return [leaf.reshape(-1, leaf.shape[-1]) for leaf in jax.vmap(one)(images)]


@jax.jit
def _outer(left: list[Array], right: list[Array]) -> Array:
    with jax.default_matmul_precision("highest"):
        products = [a @ b.T for a, b in zip(left, right, strict=True)]
        return jnp.sum(jnp.stack(products), axis=0)

"""The spectrum of the NTK on a sample."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from eqcifar.errors import RunError, UsageError
from eqcifar.parallel import jit

from ._draw import cut, estimate_fitted
from ._estimate import Estimate, Target
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
            f"one example's gradients take {each / 1e9:.2g} GB twice, more than the "
            f"{memory / 1e9:.2g} GB allowed: allow more memory"
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
    if not np.isfinite(rows).all():
        raise RunError(
            "the logits' gradients are not finite: the parameters have diverged or the "
            "inputs are not normalised"
        )
    size = len(stack) * classes
    return rows.reshape(count * block * classes, -1)[:size, :size] / len(stack)


def ntk_estimates(
    matrix: Float[np.ndarray, "rows rows"],
    examples: int,
    *,
    population: int,
    target: Target = "split",
) -> dict[str, Estimate]:
    """Estimate the largest eigenvalue and the effective rank of the NTK of a split.

    For K = J J' / n of n images with blocks K_ij, and u the leading eigenvector, the
    eigenvalue l is the mean over images of n l ||u_i||^2; see `estimate_fitted` for its
    error. The rank is (tr K)^2 / ||K||_F^2, in which the norm over all N images is
    estimated without bias by the mean of n^2 ||K_ij||^2 over pairs i != j (a share of
    1 - 1/N) and over i = j (the rest); its error is by the delta method.

    **Arguments:**

    - `matrix`: from `ntk_gram`.
    - `examples`: n.
    - `population`: N.

    **Returns:**

    `lmax_ntk` and `rank_ntk`.
    """
    n, classes = examples, len(matrix) // examples
    values, vectors = np.linalg.eigh(matrix)
    shares = (vectors[:, -1].reshape(n, classes) ** 2).sum(axis=1)
    halves = np.zeros((0, 2))
    if n > 1 and (n < population or target == "population"):
        cuts = cut(n)
        halves = np.asarray(
            [
                [_largest(matrix, n, cuts.members(h)) for h in both]
                for both in cuts.sides
            ]
        )
    options = {"population": population, "target": target}
    largest = estimate_fitted(values[-1], n * values[-1] * shares, halves, **options)
    blocks = matrix.reshape(n, classes, n, classes)
    traces = n * np.einsum("icic->i", blocks)
    squares = n**2 * (blocks**2).sum(axis=(1, 3))
    if not squares.any():
        return {"lmax_ntk": largest, "rank_ntk": largest}
    own = np.diag(squares).mean()
    between = (squares.sum() / n - own) / (n - 1) if n > 1 else own
    share = 1 / population if target == "split" else 0.0
    norm, trace = (1 - share) * between + share * own, traces.mean()
    plain = float(trace**2 / squares.mean())
    rank = float(trace**2 / norm) if norm > 0 else math.inf
    slopes = 2 * rank * (traces / trace - squares.mean(axis=1) / squares.mean())
    drawn = estimate_fitted(rank, slopes, np.zeros((0, 2)), **options)
    return {
        "lmax_ntk": largest,
        "rank_ntk": dataclasses.replace(drawn, bias=plain - rank),
    }


def _largest(matrix: np.ndarray, n: int, images: np.ndarray) -> float:
    classes = len(matrix) // n
    rows = (images[:, None] * classes + np.arange(classes)).ravel()
    return float(np.linalg.eigvalsh(matrix[np.ix_(rows, rows)])[-1] * n / len(images))


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

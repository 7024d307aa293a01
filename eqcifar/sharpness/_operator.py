"""Symmetric matrices known by their products with a vector."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PyTree

from eqcifar.losses import AnyLoss, Loss, get_loss
from eqcifar.parallel import jit

from ._examples import Examples
from ._memory import MEMORY
from ._network import Network
from ._pieces import teller

Kind = Literal["hess", "ggn"]


@jit
def hessian_vector_product(
    network: Network,
    loss: Loss,
    images: Float[Array, "batch ..."],
    labels: Int[Array, " batch"],
    weights: Float[Array, " batch"],
    vector: PyTree,
) -> PyTree:
    """Return sum_i w_i (d2l_i/dtheta2) v: forward over reverse mode."""

    def total(params):
        values = jax.vmap(loss)(network(params, images), labels)
        return jnp.sum(weights * values)

    return jax.jvp(jax.grad(total), (network.params,), (vector,))[1]


@jit
def ggn_vector_product(
    network: Network,
    loss: Loss,
    images: Float[Array, "batch ..."],
    labels: Int[Array, " batch"],
    weights: Float[Array, " batch"],
    vector: PyTree,
) -> PyTree:
    """Return sum_i w_i J_i' (d2l_i/df2) J_i v."""

    def logits_of(params):
        return network(params, images)

    logits, slope = jax.jvp(logits_of, (network.params,), (vector,))
    curved = jax.vmap(loss.hessian_product)
    pushed = weights[:, None] * curved(logits, labels, slope)
    return jax.vjp(logits_of, network.params)[1](pushed)[0]


@jit
def ntk_vector_product(
    network: Network,
    images: Float[Array, "batch ..."],
    vector: Float[Array, "batch classes"],
) -> Float[Array, "batch classes"]:
    """Return J J' u over the logits of a batch: the NTK, with no factor 1/n."""

    def logits_of(params):
        return network(params, images)

    gradient = jax.vjp(logits_of, network.params)[1](vector)[0]
    return jax.jvp(logits_of, (network.params,), (gradient,))[1]


class Operator:
    """A symmetric matrix of order `size` that counts its products."""

    size: int
    dtype: jnp.dtype
    matvecs: int

    def __init__(
        self,
        product: Callable[[Float[Array, " size"]], Float[Array, " size"]],
        size: int,
        dtype: jnp.dtype | None = None,
        precise: Callable[[Float[np.ndarray, " size"]], np.ndarray] | None = None,
    ):
        """Wrap any function of a flat vector, and optionally the same in float64."""
        self.product = product
        self.size = size
        self.dtype = jnp.zeros(()).dtype if dtype is None else jnp.dtype(dtype)
        self.precise = precise
        self.matvecs = 0

    def __call__(self, vector: Float[Array, " size"]) -> Float[Array, " size"]:
        """Multiply, and count."""
        self.matvecs += 1
        return self.product(vector)

    def in_double(self, vector: Float[np.ndarray, " size"]) -> np.ndarray:
        """Multiply in float64 if that can be, else as always, and count."""
        if self.precise is None:
            product = self(jnp.asarray(vector, self.dtype))
            return np.asarray(product, dtype=np.float64)
        self.matvecs += 1
        return self.precise(vector)

    @property
    def precision(self) -> float:
        """The unit of rounding of `in_double`."""
        dtype = self.dtype if self.precise is None else jnp.float64
        return float(jnp.finfo(dtype).eps)

    def counted(self, before: int, total: int, share: float = 1.0) -> "Operator":
        """The same, reporting (see `keeping`) the products done, `before` and here.

        **Arguments:**

        - `share`: of the work of a product that one here is.
        """
        report = teller()

        def told(product: Callable[[Any], Any]) -> Callable[[Any], Any]:
            def apply(vector: Any) -> Any:
                done = int(share * (counting.matvecs - 1))
                report(min(before + done, total), total)
                return product(vector)

            return apply

        precise = None if self.precise is None else told(self.precise)
        counting = Operator(told(self), self.size, self.dtype, precise)
        return counting


def operator(
    network: Network,
    examples: Examples,
    loss: AnyLoss,
    kind: Kind = "hess",
    *,
    memory: float = MEMORY,
) -> Operator:
    """Make the Hessian or GGN of the mean loss over all the examples an operator.

    One product passes over every example once; vectors are flat, in the order of
    `network.leaves`. Its product in float64 is that of the same parameters.

    **Arguments:**

    - `memory`: bytes for what a product keeps of the examples at hand; a smaller batch
        is taken if need be, except under batch statistics. In float64, twice as many.
    """
    loss = get_loss(loss)
    product = {"hess": hessian_vector_product, "ggn": ggn_vector_product}[kind]

    def over(network: Network, examples: Examples, vector: Array) -> Array:
        unravel, total = ravel_pytree(network.params)[1], jnp.zeros_like(vector)
        direction = unravel(vector)
        for batch in examples.batches():
            part = product(
                network, loss, batch.images, batch.labels, batch.weights, direction
            )
            total = total + ravel_pytree(part)[0]
        return total / len(examples)

    def precise(vector: np.ndarray) -> np.ndarray:
        with jax.enable_x64(True):
            doubled = _double(network)
            wide = dataclasses.replace(
                examples, prepare=lambda x: _double(examples.prepare(x))
            )
            wide = fitting(doubled, wide, 2 * memory)
            return np.asarray(over(doubled, wide, jnp.asarray(vector, jnp.float64)))

    fitted = fitting(network, examples, memory)
    flat = ravel_pytree(network.params)[0]
    already = flat.dtype == jnp.float64
    return Operator(
        partial(over, network, fitted),
        flat.size,
        flat.dtype,
        None if already else precise,
    )


def mean_of(parts: Sequence[Operator], shares: Float[np.ndarray, " parts"]) -> Operator:
    """The mean of operators, to which each contributes its share."""
    each = list(zip(shares.tolist(), parts, strict=True))

    def product(vector: Array) -> Array:
        return reduce(jnp.add, [share * part(vector) for share, part in each])

    def precise(vector: np.ndarray) -> np.ndarray:
        return np.sum([share * part.in_double(vector) for share, part in each], axis=0)

    first = parts[0]
    has_more = first.precise is not None
    return Operator(product, first.size, first.dtype, precise if has_more else None)


def _double(tree: PyTree) -> PyTree:
    def wide(leaf: Any) -> Any:
        is_float = eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf.astype(jnp.float64) if is_float else leaf

    return jax.tree.map(wide, tree)


def fitting(network: Network, examples: Examples, memory: float) -> Examples:
    """Put as many on the device at a time as a product's intermediate values admit.

    Those that the logits take on the way are about as much as any product was seen to
    keep at a time on a CPU (0.8 to 1.2 of them for 32 images in ResNet-18, kernels
    included).
    """
    if network.batch_statistics:
        return examples  # another batch would be another function
    image = examples.with_batch_size(examples.devices).batch(0).images[:1]
    traced = jax.make_jaxpr(network)(network.params, image)
    made = [v.aval for equation in traced.eqns for v in equation.outvars]
    each = sum(math.prod(a.shape) * a.dtype.itemsize for a in made)
    return examples.within(memory, float(each))

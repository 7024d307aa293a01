"""In which parameter arrays the logits are curved."""

from collections.abc import Sequence
from functools import reduce
from operator import or_

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, Literal
from jaxtyping import Array, Float

from ._network import Network

# Their derivative is 0 wherever it exists. (So it is of comparisons and of integers.)
_PIECEWISE_CONSTANT = {"ceil", "floor", "nextafter", "round", "sign", "stop_gradient"}
# How many operands count: the rest tells a shape, or which one is the largest.
_COUNTING = {"select_and_gather_add": 1, "select_and_scatter_add": 1}
_CALLS = {"checkpoint", "closed_call", "jit", "pjit", "remat2"}


def curved_leaves(
    network: Network, images: Float[Array, "batch ..."]
) -> tuple[str, ...]:
    """Name the parameter arrays in which, taken alone, the logits may be curved.

    In the others d2f/dtheta_l2 = 0 wherever it exists: for every image, whatever the
    size of weights, inputs and logits, and however steep an activation is. With no
    array named, tr H = tr GGN for every loss. That is so for piecewise-linear networks
    (ReLU, leaky ReLU, max pooling, a product of two branches) with fixed normalisation;
    not with GELU, attention, batch statistics, or an array that meets itself.

    This is a proof, not a measurement: in the program that computes u' df/dtheta_l, no
    number that depends on theta_l enters. What JAX differentiates to zero (comparisons,
    integers, signs) breaks a dependence; all else hands it on.

    **Arguments:**

    - `images`: any; their shape is looked at.

    **Returns:**

    Names out of `network.leaves`, in that order.
    """
    at, structure = jax.tree.flatten(network.params)

    def gradient(at: list[Array], along: Array) -> list[Array]:
        def logits(leaves: list[Array]) -> Array:
            return network(jax.tree.unflatten(structure, leaves), images)

        return jax.vjp(logits, at)[1](along)[0]

    along = eqx.filter_eval_shape(network, network.params, images)
    program = jax.make_jaxpr(gradient)(at, along).jaxpr
    reads = _walk(program, [*(1 << i for i in range(len(at))), 0])
    named = zip(network.leaves, reads, strict=True)
    return tuple(name for i, (name, read) in enumerate(named) if read >> i & 1)


def _walk(program: Jaxpr, arguments: Sequence[int]) -> list[int]:
    """The arrays that each result depends on, as bits of an integer."""
    known = dict(zip(program.invars, arguments, strict=True))

    def look(variable) -> int:
        # Neither literals nor the program's constants depend on anything.
        return 0 if isinstance(variable, Literal) else known.get(variable, 0)

    for equation in program.eqns:
        name, results = equation.primitive.name, equation.outvars
        reads = [look(variable) for variable in equation.invars]
        if name in _CALLS:
            inner = equation.params["jaxpr"]
            reads = _walk(getattr(inner, "jaxpr", inner), reads)
        elif name in _PIECEWISE_CONSTANT:
            reads = [0] * len(results)
        elif name != "optimization_barrier":
            counting = reads[: _COUNTING.get(name, len(reads))]
            reads = [reduce(or_, counting, 0)] * len(results)
        for variable, read in zip(results, reads, strict=True):
            dtype = getattr(variable.aval, "dtype", jnp.float32)
            smooth = jnp.issubdtype(dtype, jnp.inexact)
            known[variable] = read if smooth else 0
    return [look(variable) for variable in program.outvars]

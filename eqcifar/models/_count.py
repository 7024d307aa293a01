import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from equinox.nn import State
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn
from jaxtyping import Array, PyTree

# The primitives in which a network's forward pass multiplies and adds.
PRODUCTS = lax.conv_general_dilated_p, lax.dot_general_p


def count_parameters(model: PyTree) -> int:
    """Count the trained numbers: those in floating-point arrays of the model.

    **Arguments:**

    - `model`: Any Equinox model, or its shapes from `eqx.filter_eval_shape`. The state
        is kept apart, so running statistics do not count.

    **Returns:**

    Their number; complex ones count once.
    """
    return sum(
        math.prod(leaf.shape)
        for leaf in jax.tree.leaves(model)
        if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact)
    )


def count_multiply_adds(model: Callable, state: State, *, image_size: int = 32) -> int:
    """Count the multiply-adds of one image's forward pass.

    Those of convolutions and matrix products, with the products with padding; what is
    left out is element by element. Nothing is compiled or run.

    **Arguments:**

    - `model`: Any model from `Float[Array, "3 height width"]`, or its shapes from
        `eqx.filter_eval_shape`.
    - `state`: Its state, or the shapes.
    - `image_size`: The height and width in pixels.

    **Returns:**

    Their number; twice as many are the FLOPs that papers state.
    """
    model = eqx.nn.inference_mode(model)
    dtypes = [x.dtype for x in jax.tree.leaves(model) if hasattr(x, "dtype")]
    image = jax.ShapeDtypeStruct((3, image_size, image_size), dtypes[0])
    jaxpr, _, _ = eqx.filter_make_jaxpr(_call)(model, image, state)
    return _count(jaxpr.jaxpr)


def _call(model: Callable, image: Any, state: State) -> Array:
    # The model as an argument: its arrays may be mere shapes.
    logits, _ = model(image, state)
    return logits


def _count(jaxpr: Jaxpr) -> int:
    return sum(_count_equation(equation) for equation in jaxpr.eqns)


def _count_equation(equation: JaxprEqn) -> int:
    params = equation.params
    if equation.primitive is lax.conv_general_dilated_p:
        # For each output value, the kernel's size for one output channel.
        kernel = _shape(equation.invars[1])
        out_channels = kernel[params["dimension_numbers"].rhs_spec[0]]
        output = math.prod(_shape(equation.outvars[0]))
        return output * math.prod(kernel) // out_channels
    if equation.primitive is lax.dot_general_p:
        (contracted, _), _ = params["dimension_numbers"]
        left = _shape(equation.invars[0])
        output = math.prod(_shape(equation.outvars[0]))
        return output * math.prod(left[axis] for axis in contracted)
    inner = [_count(j) for j in _inner_jaxprs(params)]
    if equation.primitive.name == "cond":
        return max(inner)
    # A scan repeats its body.
    return params.get("length", 1) * sum(inner)


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _inner_jaxprs(params: dict) -> list[Jaxpr]:
    leaves = jax.tree.leaves(
        list(params.values()), is_leaf=lambda x: isinstance(x, ClosedJaxpr | Jaxpr)
    )
    return [
        leaf.jaxpr if isinstance(leaf, ClosedJaxpr) else leaf
        for leaf in leaves
        if isinstance(leaf, ClosedJaxpr | Jaxpr)
    ]

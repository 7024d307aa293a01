"""The worst direction of sharpness-aware minimisation, for training and measuring."""

from functools import partial, reduce

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .models import is_weight

# So that a weight of 0 moves too: Kwon et al., 2021, section 5.
_ETA = 0.01


def adaptive_scale(parameters: PyTree) -> PyTree:
    r"""The diagonal $T$ of ASAM: $|\theta_j| + 0.01$ for weights, 1 for the others.

    Kwon et al., 2021, https://arxiv.org/abs/2102.11600, with the $\eta$ of its
    experiments. The others are biases, and the scales and shifts of normalisation.

    **Arguments:**

    - `parameters`: a model's floating-point arrays.

    **Returns:**

    A tree like `parameters`.
    """

    def of(path, parameter):
        if is_weight(path, parameter):
            return jnp.abs(parameter) + _ETA
        return jnp.ones_like(parameter)

    return jax.tree.map_with_path(of, parameters)


@partial(jax.jit, static_argnames="adaptive")
def perturbation(
    parameters: PyTree,
    gradient: PyTree,
    radius: float | Float[Array, ""],
    *,
    adaptive: bool = False,
) -> PyTree:
    r"""What maximises the linearised loss over $\|T^{-1}\epsilon\| \le \rho$.

    $\epsilon = \rho\,T^2 g / \|T g\|$ with $T = I$, or that of `adaptive_scale`; 0
    where the gradient is 0. Foret et al., 2021, equation 2,
    https://arxiv.org/abs/2010.01412.

    **Arguments:**

    - `parameters`: $\theta$, a model's floating-point arrays.
    - `gradient`: $g$, a tree like them.
    - `radius`: $\rho$.
    - `adaptive`: whether $T$ is that of `adaptive_scale`.

    **Returns:**

    A tree like `parameters`.
    """

    def multiply(tree):
        return jax.tree.map(jnp.multiply, scale, tree) if adaptive else tree

    scale = adaptive_scale(parameters) if adaptive else None
    scaled = multiply(gradient)
    leaves = jax.tree.leaves(scaled)
    # Of arrays in several precisions, the norm is in the widest.
    dtype = reduce(jnp.promote_types, (x.dtype for x in leaves))
    norm = jnp.sqrt(sum(jnp.sum(jnp.square(x)).astype(dtype) for x in leaves))
    factor = jnp.where(norm > 0, radius / jnp.where(norm > 0, norm, 1), 0)
    return jax.tree.map(lambda x: factor.astype(x.dtype) * x, multiply(scaled))

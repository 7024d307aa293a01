import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._lanczos import _run
from ._memory import BASIS_MEMORY
from ._operator import Operator


def leading_eigenpair(
    operator: Operator,
    start: Float[Array, " size"],
    *,
    steps: int = 40,
    rtol: float = 1e-3,
    basis_memory: float = BASIS_MEMORY,
) -> tuple[float, float, Float[Array, " size"]]:
    """Find the largest eigenvalue by Lanczos from a vector that is nearly right.

    **Arguments:**

    - `operator`: the matrix.
    - `start`: such as the eigenvector of a matrix nearby, with something random added:
        what is orthogonal to it is never found.
    - `steps`: at most so many products; fewer when the bound is at most `rtol` times
        the value.
    - `basis_memory`: bytes for the basis, one vector a step.

    **Returns:**

    The value, how near to it an eigenvalue is, and a unit vector.

    **Raises:**

    `UsageError` when the basis would not fit, `RunError` for a product that is not
    finite.
    """

    def enough(values, bounds):
        return bounds[-1] <= rtol * abs(values[-1])

    values, bounds, pairs, basis = _run(operator, start, steps, basis_memory, enough)
    with jax.default_matmul_precision("highest"):
        vector = jnp.asarray(pairs[:, -1], basis.dtype) @ basis[: len(values)]
    return float(values[-1]), float(bounds[-1]), vector / jnp.linalg.norm(vector)

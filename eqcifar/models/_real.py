import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ..errors import UsageError


def check_real(parameters: PyTree) -> None:
    """Refuse complex parameters: gradients, traces and optimisers here are real.

    **Arguments:**

    - `parameters`: Any tree; what is no array is passed over.

    **Raises:**

    `UsageError` that names the first complex array.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(parameters):
        if jnp.iscomplexobj(leaf):
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            raise UsageError(
                f"the parameter {name} is complex: keep its real and its imaginary "
                "part as two real arrays"
            )

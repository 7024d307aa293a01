from typing import Any

from jaxtyping import Array


def is_weight(path: tuple[Any, ...], parameter: Array) -> bool:
    """Whether a parameter is neither a bias nor one of BatchNorm's.

    **Arguments:**

    - `path`: to it in the model, as `jax.tree_util` has it. A bias can have several
        axes, as that of a convolution of Equinox.
    - `parameter`: the array.
    """
    return parameter.ndim > 1 and getattr(path[-1], "name", None) != "bias"

import jax
from jax import lax
from jaxtyping import Array


def materialise(x: Array) -> Array:
    """Keep XLA on CPUs from computing `x` anew wherever it is used.

    It would fuse normalisation and activation into the transposed copies that a
    gradient reads, at a stride of whole images. See `parallel.compiler_options`, by
    which the barrier lasts until operations are fused.

    **Arguments:**

    - `x`: What a convolution reads or gives.

    **Returns:**

    `x`; on other devices without a barrier.
    """
    return lax.optimization_barrier(x) if jax.default_backend() == "cpu" else x

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ..config import SharpnessOptions
from ..errors import UsageError
from ..sharpness import Examples

_DEFAULT_SAMPLES = 1000


def choose_examples(
    images: Any,
    labels: Any,
    prepare: Callable[[Any], Any],
    options: SharpnessOptions,
    mesh: Mesh,
    split: str,
) -> Examples:
    """The images that are measured, in random order.

    **Arguments:**

    - `images`, `labels`, `prepare`: as of `eqcifar.sharpness.Examples`.
    - `options`: how many of them, and how many at a time.
    - `mesh`: the devices that a batch is spread over.
    - `split`: what they are called.

    **Raises:**

    `UsageError` when there are fewer than are asked for.
    """
    count = options.samples or len(labels)
    if options.samples is None:
        count = min(_DEFAULT_SAMPLES, len(labels))
    if count > len(labels):
        raise UsageError(
            f"{count} samples asked for, but the {split} split has {len(labels)} "
            "images: ask for fewer, or for 0 to take all"
        )
    size = -(-min(options.batch_size, max(count, 1)) // mesh.size) * mesh.size
    if options.batch_statistics:
        count = max(count - count % size, size)
    spread = partial(jax.device_put, device=NamedSharding(mesh, PartitionSpec("data")))
    return Examples(
        images,
        labels,
        prepare=prepare,
        place=jnp.asarray if mesh.size == 1 else spread,
        batch_size=size,
        devices=mesh.size,
    ).sample(count, options.seed)

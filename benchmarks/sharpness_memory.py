"""Temporary memory of the compiled sharpness passes, ResNet-18 at batch 128.

Nothing is run: the compiler says what it would allocate, beside its arguments.

    python -m benchmarks.sharpness_memory
"""

import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from eqcifar import models, sharpness
from eqcifar.losses import get_loss
from eqcifar.sharpness._operator import fitting
from eqcifar.sharpness._output_traces import _norms
from eqcifar.sharpness._probe_traces import _forms_of_key

from .records import store

BATCH = 128


def main() -> None:
    """Compile, store, and hold against the goal."""
    model, state = models.create("resnet18", key=jax.random.key(0))
    network = sharpness.Network(model, state)
    images = np.zeros((BATCH, 3, 32, 32), np.float32)
    examples = sharpness.Examples(images, np.zeros(BATCH, np.int32), batch_size=BATCH)
    loss, key = get_loss("ce"), jax.random.key(0)
    chunk = examples.within(1e9, 4.0 * network.size)
    part = fitting(network, examples, 1e9)
    few, some, whole = chunk.batch(0), part.batch(0), examples.batch(0)
    passes = {
        "exact path: gradients of single examples": lambda: _norms.lower(
            network,
            loss,
            ("plain", "theta", "filter"),
            10,
            few[1:4],
            jnp.asarray(0),
            key,
        ),
        "general path: jvp of a jvp": lambda: _forms_of_key.lower(
            network, loss, whole.images, whole.labels, key, "rademacher", "plain", False
        ),
        "general path with signs an example": lambda: _forms_of_key.lower(
            network, loss, whole.images, whole.labels, key, "rademacher", "plain", True
        ),
        "Hessian-vector product": lambda: sharpness.hessian_vector_product.lower(
            network, loss, some.images, some.labels, some.weights, network.params
        ),
        "GGN-vector product": lambda: sharpness.ggn_vector_product.lower(
            network, loss, some.images, some.labels, some.weights, network.params
        ),
        "gradient": lambda: _gradient.lower(network, loss, whole),
    }
    sizes = {}
    for name, lower in passes.items():
        start = time.perf_counter()
        compiled = lower().compile().compiled
        found = compiled.memory_analysis()
        sizes[name] = {
            "temporary_GB": found.temp_size_in_bytes / 1e9,
            "arguments_GB": found.argument_size_in_bytes / 1e9,
            "output_GB": found.output_size_in_bytes / 1e9,
            "compile_seconds": time.perf_counter() - start,
        }
        print(f"{name}: {sizes[name]['temporary_GB']:.2f} GB temporary", flush=True)
        store(
            "sharpness_memory",
            {
                "network": "resnet18",
                "parameters": network.size,
                "batch": BATCH,
                "exact_path_chunk": chunk.batch_size,
                "product_chunk": part.batch_size,
                "goal_GB": 1.2,
                "passes": sizes,
            },
        )


@eqx.filter_jit
def _gradient(network, loss, batch):
    def total(params):
        logits = network(params, batch.images)
        return jnp.sum(batch.weights * jax.vmap(loss)(logits, batch.labels))

    return jax.grad(total)(network.params)


if __name__ == "__main__":
    main()

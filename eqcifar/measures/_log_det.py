"""The volume that the Gauss-Newton matrix leaves to a prior."""

from typing import TYPE_CHECKING

from ._measure import Column, Measure

if TYPE_CHECKING:
    from ..sharpness import Measured, Task

_PRIOR = 5e-4


def _compute(task: "Task") -> "Measured":
    """`eqcifar.sharpness.log_determinant`, plain and times |theta| on both sides."""
    import dataclasses

    import jax
    import jax.numpy as jnp
    from jax.flatten_util import ravel_pytree

    from ..sharpness import Measured, log_determinant, page, scaled_operator

    theta = jnp.abs(ravel_pytree(task.network.params)[0])
    probes, steps = max(task.probes, 4), task.steps(40, 10)
    total, values = 2 * probes * steps, {}
    for number, (name, scale) in enumerate(
        (("log_det", None), ("log_det_theta", theta))
    ):
        operator = task.operator("ggn", number * probes * steps, total)
        if scale is not None:
            operator = scaled_operator(operator, scale)
        with page(name):
            found = log_determinant(
                operator,
                _PRIOR,
                probes=probes,
                steps=steps,
                basis_memory=task.basis,
                key=jax.random.fold_in(task.key, number),
            )
        values[name] = dataclasses.replace(found, examples=len(task.examples))
    return Measured(values)


LOG_DET = Measure(
    "log_det",
    {
        "log_det": Column(
            f"log det(I + GGN / {_PRIOR:g}) of the mean {{loss}} loss over these images"
        ),
        "log_det_theta": Column(
            f"log det(I + |theta| GGN |theta| / {_PRIOR:g}) of the mean {{loss}} loss "
            "over these images"
        ),
    },
    _compute,
)

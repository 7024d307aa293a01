"""Traces of the NTK that know no scale of the logits."""

from typing import TYPE_CHECKING

from ._measure import Column, Measure

if TYPE_CHECKING:
    from ..sharpness import Measured, Task


def _compute(task: "Task") -> "Measured":
    """The traces of the NTK for logits of unit standard deviation."""
    import equinox as eqx

    from ..sharpness import Measured, Network

    given = task.network
    model = eqx.combine(given.params, given.static)
    network = Network(model, given.state, unit_logits=True, call=given.call)
    outputs = task.outputs(network, "mse", "outputs-unit")
    names = {"tr_ntk_unit": "plain", "tr_ctk_unit": "theta"}
    return Measured(
        {k: outputs.estimate(kind, target=task.target) for k, kind in names.items()}
    )


UNIT = Measure(
    "unit",
    {
        "tr_ntk_unit": Column(
            "tr_ntk for logits divided by their standard deviation", "1 / parameter²"
        ),
        "tr_ctk_unit": Column("tr_ctk for the same"),
    },
    _compute,
    per_image=True,
    usual=True,
)

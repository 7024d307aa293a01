import gc
from typing import Annotated

import typer

from ._output import print_json, print_table, say


def archs(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Architectures to list; all that have a name by default. "
            "wrn<depth>-<k> is any other wide ResNet.",
            show_default=False,
        ),
    ] = None,
    width: Annotated[
        float, typer.Option(help="Multiplies the number of channels.")
    ] = 1.0,
    classes: Annotated[int, typer.Option(help="Number of classes.", min=1)] = 10,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of a table.")
    ] = False,
):
    """List the architectures: name, parameters, FLOPs per image."""
    import equinox as eqx
    import jax

    from eqcifar import models, parallel

    parallel.find_devices()
    # Tracing makes millions of objects, none of which is garbage: not to be searched.
    gc.disable()
    rows = []
    for name in names or models.ARCHITECTURES:
        # Shapes only: no weight is drawn.
        model, state = eqx.filter_eval_shape(
            models.create, name, classes, width=width, key=jax.random.key(0)
        )
        multiply_adds = models.count_multiply_adds(model, state)
        rows.append(
            {
                "name": name,
                "parameters": models.count_parameters(model),
                "multiply_adds": multiply_adds,
                "flops": 2 * multiply_adds,
            }
        )
    if as_json:
        print_json({"width": width, "classes": classes, "architectures": rows})
        return
    print_table(
        f"Architectures for {classes} classes at width {width:g}, images of 32 x 32",
        ("name", "parameters", "GFLOPs per image"),
        [
            (row["name"], f"{row['parameters']:,}", f"{row['flops'] / 1e9:.3f}")
            for row in rows
        ],
    )
    say("A forward pass; one multiply-add counts as 2 FLOPs.")

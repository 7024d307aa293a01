from typing import Annotated

import typer

from ._measuring import Json
from ._output import print_json, print_table, say


def verify(
    rtol: Annotated[
        float, typer.Option(help="Relative difference allowed to exact numbers.")
    ] = 1e-4,
    as_json: Json = False,
):
    """Measure sharpness where the truth is known, on this machine; exit 1 if wrong."""
    import jax

    from eqcifar import sharpness

    from ._jax import keep_compilations

    keep_compilations()
    checks = sharpness.verify(rtol)
    wrong = [check for check in checks if not check.passed]
    if as_json:
        print_json([vars(check) | {"passed": check.passed} for check in checks])
    else:
        device = jax.devices()[0]
        print_table(
            f"Against known answers, on {device.device_kind} ({device.platform}), "
            "float32",
            ("measure", "measured", "truth", "difference", "allowed", ""),
            [
                (
                    check.name,
                    f"{check.measured:.7g}",
                    f"{check.expected:.7g}",
                    f"{abs(check.measured - check.expected):.1e}",
                    f"{check.allowed:.1e}",
                    "agrees" if check.passed else "WRONG",
                )
                for check in checks
            ],
        )
        say(f"{len(checks) - len(wrong)} of {len(checks)} agree.")
    if wrong:
        raise typer.Exit(1)

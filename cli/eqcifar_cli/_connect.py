import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eqcifar.config import ConnectOptions

from ._measuring import Devices, Json, Meter, format_estimate, open_run, plus_minus
from ._options import with_options
from ._output import print_json, print_table, say

if TYPE_CHECKING:
    from eqcifar.measurements import Barrier, Connection, MeasuredNetwork


def _end(name: str) -> Any:
    return typer.Argument(
        metavar=name, help="Folder of a run, or a model file.", show_default=False
    )


@with_options
def connect(
    options: ConnectOptions,
    *,
    first: Annotated[Path, _end("A")],
    second: Annotated[Path, _end("B")],
    devices: Devices = None,
    as_json: Json = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Draw the line there too, as PNG and SVG.",
            show_default=False,
        ),
    ] = None,
):
    """Measure loss and accuracy on the line between two networks, and the barrier.

    BatchNorm's statistics are computed anew at each point. Networks of two seeds are
    joined by their weights' permutations with --align weights.
    """
    from eqcifar import measurements

    ends = [open_run(path, path) for path in (first, second)]
    with Meter() as meter:
        found = measurements.connect(
            *(ends[0], ends[1], options),
            devices=devices,
            report=lambda done, total: meter("line", "points", done, total),
        )
    if as_json:
        print_json(_to_json(ends, options, found))
    else:
        _print(ends, options, found)
    if plot is not None:
        for path in measurements.plot_connection(ends[0], ends[1], found, plot):
            typer.echo(str(path), err=True)


def _to_json(
    ends: "list[MeasuredNetwork]", options: ConnectOptions, found: "Connection"
) -> dict[str, Any]:
    def barrier(each: "Barrier") -> dict[str, float]:
        low, high = each.interval()
        error = each.standard_error
        return {
            "value": each.value,
            "standard_error": error,
            "low": low,
            "high": high,
            "at": each.at,
        }

    return {
        "first": str(ends[0].path),
        "second": str(ends[1].path),
        "arch": ends[0].config.arch,
        "dataset": ends[0].dataset.name,
        "synthetic": ends[0].dataset.synthetic,
        "loss_name": ends[0].loss_name(options.of_a_split()),
        "options": options.to_dict(),
        "distance": found.distance,
        "distance_before": found.before,
        "moved": found.moved,
        "points": found.points.tolist(),
        "splits": {
            name: {
                "examples": line.examples,
                "loss": line.loss.tolist(),
                "loss_error": line.loss_error.tolist(),
                "accuracy": line.accuracy.tolist(),
                "accuracy_error": line.accuracy_error.tolist(),
                "barrier": barrier(line.barrier),
                "error_barrier": barrier(line.error_barrier),
            }
            for name, line in found.lines.items()
        },
    }


def _print(ends: "list[MeasuredNetwork]", options: ConnectOptions, found: "Connection"):
    mark = " of SYNTHETIC images" if ends[0].dataset.synthetic else ""
    columns, rows = ["t"], [[f"{t:.2f}"] for t in found.points]
    for name, line in found.lines.items():
        columns += [f"{name} loss", plus_minus(), f"{name} accuracy", plus_minus()]
        for at, row in enumerate(rows):
            row += _cells(line.loss[at], line.loss_error[at])
            row += _cells(100 * line.accuracy[at], 100 * line.accuracy_error[at])
    print_table(
        f"(1 - t) {ends[0].path} + t {ends[1].path}{mark}: {ends[0].config.arch}, "
        f"{ends[0].loss(options.of_a_split())}, {ends[0].dataset.title}",
        columns,
        rows,
    )
    for name, line in found.lines.items():
        loss, error = line.barrier, line.error_barrier
        value, half = format_estimate(loss.value, 1.96 * loss.standard_error)
        points, width = format_estimate(100 * error.value, 196 * error.standard_error)
        say(
            f"Barrier on {line.examples} {name} images: loss {value} {plus_minus()} "
            f"{half} at t = {loss.at:.2f}, error {points} {plus_minus()} {width} "
            f"points at t = {error.at:.2f}"
        )
    aligned = (
        f", {found.before:.4g} before {100 * found.moved:.0f} % of the second's "
        "channels were moved"
        if options.align != "none"
        else ""
    )
    say(
        f"Distance {found.distance:.4g}{aligned}\n{plus_minus()}: 95 %, of the images. "
        "Accuracy in per cent; BatchNorm's statistics are of the training images "
        "measured, at the ends too."
    )


def _cells(value: float, error: float) -> tuple[str, str]:
    return format_estimate(float(value), 1.96 * float(error) if error else math.nan)

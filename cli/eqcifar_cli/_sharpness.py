from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from eqcifar.config import SharpnessOptions
from eqcifar.errors import UsageError

from ._measuring import Devices, Json, Meter, Out, RunPath, holds_runs, open_run
from ._options import with_options
from ._output import print_json, print_warning
from ._shared_out import Sharing
from ._sharpness_options import Wanted

if TYPE_CHECKING:
    from eqcifar.measurements import MeasuredNetwork


@with_options
def sharpness(
    wanted: Wanted,
    options: SharpnessOptions,
    sharing: Sharing,
    *,
    run: RunPath = None,
    devices: Devices = None,
    as_json: Json = False,
    out: Out = Path("results"),
):
    """Measure how sharp the minimum of a trained network is, with 95 % intervals.

    Appends to sharpness.tsv in the run's folder. Interrupted, the same command goes on.
    Of a folder with runs below it, measures every finished one, and skips what has been
    measured from at least as many images.
    """
    from eqcifar import measurements

    names = wanted.names(options)
    if run is not None and holds_runs(run):
        from ._sharpness_runs import measure_below

        wanted.check_many(run)
        splits = wanted.splits()
        measure_below(run, names, splits, options, sharing, devices, as_json)
        return
    sharing.check_one()
    if wanted.checkpoints:
        _measure_checkpoints(run, out, wanted, options, devices, as_json)
        return
    if wanted.plot:
        measurements.check_plots()
    trained = open_run(run, out)
    if wanted.plot and not trained.same_data:
        raise UsageError(
            f"--plot draws beside {trained.table}, which is of other data: bring the "
            "data back, or leave out --plot"
        )
    if wanted.how_many is not None:
        _plan(trained, wanted.splits()[0], options, wanted.how_many, devices, as_json)
    elif wanted.convention == "original":
        _original(trained, options, wanted.original_devices or 8, devices, as_json)
    else:
        _measure(trained, wanted, options, devices, as_json)


def _plan(
    trained: "MeasuredNetwork",
    split: str,
    options: SharpnessOptions,
    rtol: float,
    devices: int | None,
    as_json: bool,
):
    from eqcifar import measurements

    from . import _sharpness_tables as tables

    plan = measurements.plan_network(trained, split, options, rtol, devices=devices)
    tables.print_plan(trained, split, options, plan, rtol, as_json)


def _original(
    trained: "MeasuredNetwork",
    options: SharpnessOptions,
    original_devices: int,
    devices: int | None,
    as_json: bool,
):
    from eqcifar import measurements

    from . import _sharpness_tables as tables

    with Meter() as meter:
        original = measurements.measure_original(
            trained,
            options,
            original_devices,
            devices=devices,
            report=meter,
            warn=print_warning,
        )
    tables.print_original(trained, original, original_devices, as_json)


def _measure(
    trained: "MeasuredNetwork",
    wanted: Wanted,
    options: SharpnessOptions,
    devices: int | None,
    as_json: bool,
):
    from eqcifar import measurements

    from . import _sharpness_tables as tables

    with Meter() as meter:
        found = measurements.measure_network(
            trained,
            wanted.names(options),
            wanted.splits(),
            options,
            devices=devices,
            report=meter,
            warn=print_warning,
        )
    penalty = trained.penalty(options)
    table = measurements.measures_table(trained, options, found)
    try:
        measurements.append_measures(trained, options, found, devices=devices)
    finally:
        # Whatever becomes of the file, and of the reader of our output.
        if as_json:
            print_json(
                tables.to_json(trained, options, found, penalty, wanted.sharpest)
            )
        else:
            tables.print_found(table)
            tables.print_shares(
                trained, found, wanted.layers, wanted.classes, wanted.sharpest
            )
    if trained.same_data:
        typer.echo(f"Appended to {trained.table}", err=as_json)
    if wanted.plot:
        files = table.plot(trained.table.with_suffix(""))
        names = ", ".join(path.name for path in files)
        typer.echo(f"Plotted in {trained.table.parent}: {names}", err=as_json)


def _measure_checkpoints(
    run: Path | None,
    out: Path,
    wanted: Wanted,
    options: SharpnessOptions,
    devices: int | None,
    as_json: bool,
):
    from eqcifar import measurements, storage

    from . import _sharpness_tables as tables
    from ._jax import keep_compilations

    keep_compilations()
    path = storage.latest_run(out).path if run is None else run
    found: list[dict[str, Any]] = []

    def add(epoch: int, trained: Any, values: Any):
        penalty = trained.penalty(options)
        row = tables.to_json(trained, options, values, penalty, sharpest=0)
        found.append({"epoch": epoch, **row})

    with Meter() as meter:
        measurements.measure_checkpoints(
            path,
            wanted.names(options),
            wanted.splits(),
            options,
            devices=devices,
            report=lambda epoch: (
                lambda split, *rest: meter(f"epoch {epoch}, {split}", *rest)
            ),
            warn=print_warning,
            on_checkpoint=add,
        )
    if as_json:
        print_json(found)
    else:
        tables.print_checkpoints(path, found)
    if all(each["same_data"] for each in found):
        typer.echo(f"Appended to {path / 'sharpness_log.tsv'}", err=as_json)
    else:
        print_warning(f"the data is not what {path} was trained on: nothing appended")

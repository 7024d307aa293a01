from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from eqcifar.measures import MEASURES, usual_measures

from ._measuring import (
    BatchSize,
    Devices,
    Json,
    LossName,
    Memory,
    Meter,
    OneHot,
    Out,
    RunPath,
    Samples,
    Seed,
    open_run,
)
from ._output import print_json, print_warning


def sharpness(
    run: RunPath = None,
    split: Annotated[
        str, typer.Option(help="train, test or val; several with commas.")
    ] = "train",
    measures: Annotated[
        str | None,
        typer.Option(
            help=f"What to measure, with commas: {', '.join(usual_measures())} (by "
            f"default); {', '.join(n for n in MEASURES if n not in usual_measures())}; "
            "or all.",
            show_default=False,
        ),
    ] = None,
    samples: Samples = None,
    probes: Annotated[
        int, typer.Option(help="Random vectors an image; 0: none, exact and dearer.")
    ] = 2,
    top: Annotated[
        int, typer.Option(help="How many eigenvalues, of the measure eigenvalues.")
    ] = 5,
    rtol: Annotated[
        float | None,
        typer.Option(
            help="Stop traces when half the 95 % interval is that part of the value.",
            show_default=False,
        ),
    ] = None,
    how_many: Annotated[
        float | None,
        typer.Option(
            help="Only plan, from a pilot: the samples and probes for an interval of "
            "that relative half-width.",
            show_default=False,
        ),
    ] = None,
    loss: LossName = None,
    one_hot: OneHot = False,
    target: Annotated[
        Literal["split", "population"],
        typer.Option(help="Whose mean is meant: the split's, or of where it is from."),
    ] = "split",
    layers: Annotated[
        bool, typer.Option("--layers", help="Show each layer's share of the trace.")
    ] = False,
    classes: Annotated[
        bool, typer.Option("--classes", help="Show the trace for each class.")
    ] = False,
    sharpest: Annotated[
        int,
        typer.Option(min=0, metavar="K", help="Show the K images of largest trace."),
    ] = 0,
    checkpoints: Annotated[
        bool,
        typer.Option(
            "--checkpoints",
            help="Measure all networks that `train --keep-every` kept, into "
            "sharpness_log.tsv.",
        ),
    ] = False,
    plot: Annotated[
        bool,
        typer.Option(
            "--plot", help="Draw what was measured, as PNG and SVG beside the run."
        ),
    ] = False,
    convention: Annotated[
        Literal["eqcifar", "original"],
        typer.Option(help="original: the six columns of sungyubkim/cifar_jax."),
    ] = "eqcifar",
    original_devices: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Devices of the original, which its tr_hess depends on; 8 by default.",
            show_default=False,
        ),
    ] = None,
    batch_statistics: Annotated[
        bool,
        typer.Option(
            "--batch-statistics",
            help="Normalise by the batch, as in training; not for ntk, unit, gram.",
        ),
    ] = False,
    batch_size: BatchSize = 128,
    memory: Memory = 1.0,
    devices: Devices = None,
    seed: Seed = 0,
    as_json: Json = False,
    out: Out = Path("results"),
):
    """Measure how sharp the minimum of a trained network is, with 95 % intervals.

    Appends to sharpness.tsv in the run's folder. Interrupted, the same command goes on.
    """
    from eqcifar import measurements
    from eqcifar.errors import UsageError
    from eqcifar.measures import check_measures

    from . import _sharpness_tables as tables

    if measures is None:
        measures = ",".join(usual_measures()) + (",spectrum" if plot else "")
        if batch_statistics:
            measures = "trace"
    names = check_measures(name.strip() for name in measures.split(","))
    if (layers or classes or sharpest) and "trace" not in names:
        raise UsageError("--layers, --classes and --sharpest need the measure trace")
    if original_devices is not None and convention != "original":
        raise UsageError("--original-devices needs --convention original")
    splits = list(dict.fromkeys(name.strip() for name in split.split(",")))
    options = measurements.SharpnessOptions(
        samples=samples,
        probes=probes,
        top=top,
        rtol=rtol,
        loss=loss,
        one_hot=one_hot,
        target=target,
        batch_size=batch_size,
        batch_statistics=batch_statistics,
        memory=memory,
        seed=seed,
    )
    if checkpoints:
        own = layers, classes, sharpest, plot, how_many, convention == "original"
        if any(own):
            raise UsageError(
                "--checkpoints prints what was measured, a row an epoch: leave out "
                "--layers, --classes, --sharpest, --plot, --how-many and --convention"
            )
        _measure_checkpoints(
            run, out, names, splits, options, devices=devices, as_json=as_json
        )
        return
    if plot:
        measurements.check_plots()
    trained = open_run(run, out)
    if plot and not trained.same_data:
        raise UsageError(
            f"--plot draws beside {trained.table}, which is of other data: bring the "
            "data back, or leave out --plot"
        )
    if how_many is not None:
        plan = measurements.plan_network(
            trained, splits[0], options, how_many, devices=devices
        )
        tables.print_plan(trained, splits[0], options, plan, how_many, as_json)
        return
    with Meter() as meter:
        if convention == "original":
            original_devices = original_devices or 8
            original = measurements.measure_original(
                trained,
                options,
                original_devices,
                devices=devices,
                report=meter,
                warn=print_warning,
            )
            tables.print_original(trained, original, original_devices, as_json)
            return
        found = measurements.measure_network(
            trained,
            names,
            splits,
            options,
            devices=devices,
            report=meter,
            warn=print_warning,
        )
    try:
        measurements.append_measures(trained, options, found, devices=devices)
    finally:
        # Whatever becomes of the file, and of the reader of our output.
        if as_json:
            print_json(tables.to_json(trained, options, found, sharpest))
        else:
            tables.print_found(trained, options, found)
            tables.print_shares(trained, found, layers, classes, sharpest)
    if trained.same_data:
        typer.echo(f"Appended to {trained.table}", err=as_json)
    if plot:
        files = measurements.plot_sharpness(trained, options, found)
        names = ", ".join(path.name for path in files)
        typer.echo(f"Plotted in {trained.table.parent}: {names}", err=as_json)


def _measure_checkpoints(
    run: Path | None,
    out: Path,
    measures: Sequence[str],
    splits: Sequence[str],
    options: Any,
    *,
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
        found.append({"epoch": epoch, **tables.to_json(trained, options, values, 0)})

    with Meter() as meter:
        measurements.measure_checkpoints(
            path,
            measures,
            splits,
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

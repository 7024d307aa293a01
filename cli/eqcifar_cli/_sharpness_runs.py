"""How the sharpness of many runs is measured and shown: a line a run."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from eqcifar import measurements
from eqcifar.config import SharpnessOptions
from eqcifar.errors import UsageError
from eqcifar.measurements import RunOutcome
from eqcifar.measures import SUFFIXES
from eqcifar.sharpness import Measured
from eqcifar.storage import Run
from eqcifar.sweeps import make_slots, take_shard

from ._jax import keep_compilations
from ._measuring import Meter, format_estimate, plus_minus
from ._options import arguments
from ._output import console, print_json, print_warning, say
from ._shared_out import Sharing, run_parts
from ._sharpness_tables import estimate_to_json

_STATES = {
    "measured": "measured",
    "there": "measured before",
    "failed": "failed",
}


def measure_below(
    folder: Path,
    measures: Sequence[str],
    splits: Sequence[str],
    options: SharpnessOptions,
    sharing: Sharing,
    devices: int | None,
    as_json: bool,
):
    """Measure every finished run below a folder; exit with 1 where one failed."""
    runs = measurements.finished_runs(folder, warn=print_warning)
    if not runs:
        raise UsageError(f"no run in {folder} is finished: train one first")
    if sharing.shard is not None:
        runs = take_shard(runs, sharing.shard)
    screen, code = console(stderr=as_json), 0
    slots = make_slots(sharing.jobs)[: len(runs)]
    if len(slots) > 1:
        words = ["sharpness", str(folder), "--measures", ",".join(measures)]
        words += ["--split", ",".join(splits), *arguments(options)]
        words += [] if devices is None else ["--devices", str(devices)]
        outcomes, code = run_parts(words, sharing.shards(len(slots)), slots, screen)
    else:
        keep_compilations()
        outcomes = []
        for outcome in measuring(runs, measures, splits, options, devices):
            outcomes.append(_to_json(outcome))
            name = os.path.relpath(outcome.path, folder)
            at = f"[{len(outcomes)}/{len(runs)}]"
            state = _STATES[outcome.state]
            say(f"{at} {state:15} {name}  {show_outcome(outcome)}", screen)
    if as_json:
        print_json(outcomes)
    counts = {
        text: sum(outcome["state"] == state for outcome in outcomes)
        for state, text in _STATES.items()
    }
    say("\n" + ", ".join(f"{n} {text}" for text, n in counts.items() if n), screen)
    if counts[_STATES["failed"]]:
        say("Run the same command to go on with those that failed.", screen)
        raise typer.Exit(1)
    if code:
        raise typer.Exit(code)


def measuring(
    runs: Sequence[Run],
    measures: Sequence[str],
    splits: Sequence[str],
    options: SharpnessOptions,
    devices: int | None,
) -> Iterator[RunOutcome]:
    """Each run's outcome, with a bar while it is measured."""
    meter = Meter()

    def report(run: Run) -> measurements.Show:
        return lambda split, *work: meter(f"{run.path.name}, {split}", *work)

    outcomes = measurements.measure_runs(
        *(runs, measures, splits, options),
        devices=devices,
        report=report,
        warn=print_warning,
    )
    while True:
        with (meter := Meter()):
            outcome = next(outcomes, None)
        if outcome is None:
            return
        yield outcome


def show_outcome(outcome: RunOutcome) -> str:
    """What was found of a run, or why nothing, in a line."""
    if outcome.state == "failed":
        return outcome.message
    values = [
        f"{name} {_show(measured, column)}"
        for column, name, measured in _first_values(outcome.found)
    ]
    took = f"  in {outcome.seconds:.0f} s" if values else ""
    return ", ".join(values) + took


def _first_values(
    found: Mapping[str, Mapping[str, Measured]],
) -> Iterator[tuple[str, str, Measured]]:
    # Of each measure and split; the table has the rest.
    for split, measures in found.items():
        for measured in measures.values():
            column = next(iter(measured.values))
            yield column, column + SUFFIXES[split], measured


def _show(measured: Measured, column: str) -> str:
    estimate, bound = measured.values[column], measured.bounds.get(column, 0.0)
    value, half = format_estimate(estimate.value, estimate.half_width() + bound)
    return f"{value} {plus_minus()} {half}"


def _to_json(outcome: RunOutcome) -> dict[str, Any]:
    return {
        "run": str(outcome.path),
        "state": outcome.state,
        "message": outcome.message,
        "seconds": outcome.seconds,
        "splits": {
            split: {
                name: {**estimate_to_json(e), "bound": measured.bounds.get(name)}
                for measured in measures.values()
                for name, e in measured.values.items()
            }
            for split, measures in outcome.found.items()
        },
    }

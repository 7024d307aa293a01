"""Many minima to choose from: what `make study` trains and measures beside SAM.

python -m study.minima measure RESULTS [I/N]   # runs of study/minima*.toml, or a part
python -m study.minima halves RESULTS [I/N]    # of halves of the images, seed 0
python -m study.minima epochs RESULTS [I/N]    # of networks kept along training
python -m study.minima collect RESULTS         # all to small tables in study/results
python -m study.minima page                    # the tables to pages of the manual

Images of each split: --samples N. Tables and pages elsewhere: --to FOLDER.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax

from benchmarks.shared import environment
from eqcifar.config import SharpnessOptions
from eqcifar.measurements import (
    MeasuredNetwork,
    compute_measure,
    finished_runs,
    measure_checkpoints,
    measure_runs,
    open_network,
)
from eqcifar.parallel import make_mesh
from eqcifar.results import is_measured, read_records, software
from eqcifar.sharpness import Examples, Rows
from eqcifar.storage import Run, append_wide, read_sharpness_log, read_wide

from . import choosing_page, samples_page, splits_page, tables
from .minima_rows import ENDS, FIELDS, ON_TRAIN, column_of, ranked

SAMPLES = 500
MEASURES = "trace", "ntk", "unit", "lmax", "radius", "margins", "fisher_rao", "flatness"
# Along training: what makes `splits_page.SHOWN`.
EVERY_EPOCH = "trace", "ntk", "lmax"
# Cheap ones, which halves of the images tell apart from the error of their draw.
HALVED = "trace", "ntk", "unit", "lmax", "margins", "fisher_rao"
SPLITS = {"train": "", "test": "_te"}


def main(argv: Sequence[str] | None = None):
    """Do one of the five."""
    parser = argparse.ArgumentParser(
        prog="python -m study.minima", usage=__doc__, add_help=False
    )
    steps = {
        "measure": measure,
        "halves": halves,
        "epochs": epochs,
        "collect": collect,
    }
    parser.add_argument("command", choices=[*steps, "page"])
    parser.add_argument("results", nargs="?")
    parser.add_argument("part", nargs="?", default="1/1")
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--to", type=Path)
    given = parser.parse_args(argv)
    if given.to is not None:
        tables.RESULTS = tables.PAGES = given.to
    if given.command == "page":
        for each in (samples_page, splits_page, choosing_page):
            each.write_page()
    elif given.results is None:
        parser.error(f"{given.command} takes the folder of runs")
    else:
        steps[given.command](given.results, given.part, given.samples)


def chosen_runs(root: str, part: str) -> list[Run]:
    """The finished runs, or a part of them; those of one program follow each other."""
    at, parts = map(int, part.split("/"))
    runs = finished_runs(root, warn=partial(print, file=sys.stderr))

    def program(run: Run) -> list[str]:
        config = run.config()
        names = "dataset", "arch", "width", "subset", "label_noise"
        return [str(config[name]) for name in names] + [str(run.path)]

    return sorted(runs, key=program)[at - 1 :: parts]


def measure(root: str, part: str, samples: int):
    """Measure each run as `eqcifar sharpness` does, the dear measures last."""
    failed, runs = False, chosen_runs(root, part)
    options = SharpnessOptions(samples=samples)
    for outcome in itertools.chain(
        measure_runs(runs, MEASURES, SPLITS, options),
        measure_runs(runs, ON_TRAIN, ["train"], options),
    ):
        print(outcome.state, outcome.path.parent.name, outcome.path.name, end=" ")
        print(outcome.message or f"{outcome.seconds:.0f} s", flush=True)
        failed |= outcome.state == "failed"
    if failed:
        sys.exit(1)


def halves(root: str, part: str, samples: int):
    """Measure halves of the images, of one seed each, into a `halves.tsv` beside it."""
    options = SharpnessOptions(samples=samples)
    for run in chosen_runs(root, part):
        if run.config()["seed"] != 0:
            continue
        table = run.path / "halves.tsv"
        there = {(row["split"], row["half"]) for row in read_wide(table)}
        if len(there) == 2 * len(SPLITS):
            continue
        trained = open_network(run.path)
        for split in SPLITS:
            examples = trained.examples(split, options, make_mesh(1))
            for half, images in enumerate(examples.halves()):
                if (split, str(half)) not in there:
                    row = {"split": split, "half": half, "examples": len(images)}
                    append_wide(table, row | measured(trained, images, options))
        print("halves of", run.path.parent.name, run.path.name, flush=True)


def epochs(root: str, part: str, samples: int):
    """Measure the networks that runs kept along training, into a table of the study."""
    options = SharpnessOptions(samples=samples)
    for run in chosen_runs(root, part):
        measure_checkpoints(run.path, EVERY_EPOCH, SPLITS, options)
        fields, log = run_fields(run), {row["epoch"]: row for row in run.log()}
        rows = []
        for epoch, values in read_sharpness_log(run.path / "sharpness_log.tsv").items():
            if epoch in log:
                found = {
                    f"{name}{split}{end}": values[f"{name}{split}{end}"]
                    for name in splits_page.SHOWN
                    for split in SPLITS.values()
                    for end in ("", "_se")
                }
                seen = {"epoch": epoch, "loss": log[epoch]["loss"], "samples": samples}
                rows.append(fields | seen | found)
        tables.renew_table("minima_epochs", rows, (*FIELDS, "epoch"))
        print("epochs of", run.path.parent.name, run.path.name, flush=True)


def measured(
    trained: MeasuredNetwork, images: Examples, options: SharpnessOptions
) -> dict[str, float]:
    """Cheap measures of a network on some images, and their standard errors."""
    found: dict[str, float] = {}
    rows: dict[str, Rows] = {}
    for name in HALVED:
        values = compute_measure(
            trained.network(options),
            images,
            name,
            trained.loss(options),
            probes=options.probes,
            key=jax.random.key(options.seed),
            together=HALVED,
            rows=rows,
            start=trained.start,
        ).values
        for column, estimate in values.items():
            found[column] = estimate.value
            found[f"{column}_se"] = estimate.standard_error
    return found


def collect(root: str, part: str, samples: int):
    """Keep what was found of all runs that are measured, and what made them."""
    options = SharpnessOptions(samples=samples)
    records = [
        record
        for record in read_records(root)
        if record.state == "done"
        and is_measured(Run(record.path), MEASURES, SPLITS, options)
    ]
    place = tables.RESULTS / "minima.json"
    about = json.loads(place.read_text()) if place.exists() else []
    here = {"hardware": hardware_here(), "versions": software(records)}
    about += [here] * (here not in about)
    runs, halves = [], []
    for record in records:
        run = Run(record.path)
        fields, images = run_fields(run), run.description()["data"]["examples"]
        values = {
            f"{column_of(name)}{end}": record.values[f"{name}{end}"]
            for name in (*ENDS, *record.bases)
            for end in ("", "_se")
            if f"{name}{end}" in record.values
        }
        seen = {
            "machine": about.index(here),
            "images": images["train"],
            "images_te": images["test"],
            "samples": samples,
            "ended": record.values["epoch"],
            "seconds": record.seconds,
        }
        runs.append(fields | seen | values)
        halves += [fields | row for row in read_wide(record.path / "halves.tsv")]
    tables.renew_table("minima", runs, FIELDS)
    tables.renew_table("minima_halves", halves, (*FIELDS, "split", "half"))
    tables.write_table("minima_ranking", ranked(tables.read_table("minima")))
    place.write_text(json.dumps(about, indent=1) + "\n")


def run_fields(run: Run) -> dict[str, Any]:
    """What tells a run from the others, the data by the name of its folder."""
    config = run.config()
    fields = {name: config[name] for name in FIELDS}
    return fields | {"dataset": Path(config["dataset"]).name}


def hardware_here() -> str:
    """The processor, as results name it."""
    here = environment()
    return f"{here['processor']}, {here['cores']} cores"


if __name__ == "__main__":
    main()

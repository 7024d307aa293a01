import dataclasses
import math
import os
import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ..config import TrainConfig
from ..errors import RunError, UsageError
from ..storage import (
    STATES,
    Basis,
    Run,
    current_state,
    find_runs,
    last_values,
    read_measures,
    total_seconds,
)

# What selects the epoch that a run is judged by, and the column it is selected on.
SELECTIONS = {"last": None, "train": "acc_tr", "val": "acc_va", "test": "acc_te"}


@dataclasses.dataclass(frozen=True)
class Record:
    """What a table needs to know of a run.

    - `path`: its folder.
    - `recipe`: its configuration, whose seed is 0 whatever the run's.
    - `seed`: the run's.
    - `state`: "done", "running", "interrupted", "failed" or "unreadable".
    - `synthetic`: whether the images are procedural.
    - `data`: digest of the images, empty when the run has not read them.
    - `about`: what else was said of it, by name.
    - `in_python`: whether it was made in Python, so that no command line makes it.
    - `imported`: whether it was trained elsewhere, in PyTorch; `about` has its origin.
    - `values`: numbers by the columns of `log.tsv` at one epoch, and measures of
        `sharpness.tsv`; empty unless the run is done.
    - `bases`: what each measure rests on, see `read_measures`.
    - `seconds`: spent on training; nan when it is not known.
    """

    path: Path
    recipe: TrainConfig
    seed: int
    state: str
    synthetic: bool = False
    data: str = ""
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    in_python: bool = False
    imported: bool = False
    values: Mapping[str, float] = dataclasses.field(default_factory=dict)
    bases: Mapping[str, Basis] = dataclasses.field(default_factory=dict)
    seconds: float = math.nan

    @property
    def kind(self) -> Hashable:
        """What all seeds of a configuration share."""
        return self.recipe, tuple(sorted(self.about.items()))


def read_records(
    root: str | os.PathLike[str] = "results",
    *,
    select: str = "last",
    warn: Callable[[str], None] = warnings.warn,
) -> list[Record]:
    """What all runs in a folder and below have come to.

    **Arguments:**

    - `root`: the folder; nothing is written there.
    - `select`: "last" for a run's last epoch, or a split, "train", "val" or "test", for
        the epoch of highest accuracy on it.
    - `warn`: called with a line for each run that cannot be counted, and why.

    **Returns:**

    A record a run. Of several copies of a run there is one.

    **Raises:**

    `UsageError` when there is no such folder, and when no run that is done has the
    split.
    """
    recipes = _Recipes()
    records = []
    for run in find_runs(root, warn=warn):
        try:
            records.append(_read(run, recipes, SELECTIONS[select], warn))
        except RunError as error:
            warn(f"left out {run.path}: {error}")
    return check_selection(drop_copies(records, warn), select, warn)


def check_selection(
    records: list[Record], select: str, warn: Callable[[str], None]
) -> list[Record]:
    """Refuse to select epochs on a split that runs have not measured, or name them.

    **Raises:**

    `UsageError` when no run that is done has measured it.
    """
    done = [record for record in records if record.state == "done"]
    lacking = [record for record in done if "epoch" not in record.values]
    if select == "last" or not lacking:
        return records
    name = {"train": "training", "val": "validation"}.get(select, select)
    if len(lacking) == len(done):
        hint = "train with --val-size, or " if select == "val" else ""
        raise UsageError(
            f"no run has measured {name} images, so no epoch can be selected on them: "
            f"{hint}select another way"
        )
    for record in lacking:
        warn(f"not counted: {record.path}: it has measured no {name} images")
    return records


def drop_copies(records: Iterable[Record], warn: Callable[[str], None]) -> list[Record]:
    """One record for each configuration, data and seed, one that is done if any is."""
    first: dict[Any, Record] = {}
    for record in sorted(records, key=lambda record: STATES.index(record.state)):
        key = record.kind, record.data, record.seed
        if key in first:
            warn(f"left out {record.path}: it is a copy of {first[key].path}")
        else:
            first[key] = record
    return list(first.values())


class _Recipes:
    """Makes configurations, each once for all its seeds: checking them takes time."""

    def __init__(self):
        self._made: dict[str, TrainConfig] = {}

    def __call__(self, fields: dict[str, Any]) -> tuple[TrainConfig, int]:
        seed = fields.pop("seed", None)
        if type(seed) is not int:
            raise UsageError(f"seed = {seed!r}: must be a whole number")
        key = repr(fields)
        if key not in self._made:
            self._made[key] = TrainConfig.from_dict(fields)
        return self._made[key], seed


def _read(
    run: Run, recipes: _Recipes, column: str | None, warn: Callable[[str], None]
) -> Record:
    description = run.description()
    try:
        recipe, seed = recipes(description["config"])
    except UsageError as error:
        raise RunError(f"config.json: {error}") from error
    synthetic = recipe.dataset in ("synthetic", "synthetic100")
    record = Record(
        path=run.path,
        recipe=recipe,
        seed=seed,
        state="unreadable",
        synthetic=bool(description.get("synthetic", synthetic)),
        data=str(description["data"].get("sha256", "")),
        about=description["about"],
        in_python=bool(description.get("in_python")),
        imported=bool(description.get("imported")),
    )
    try:
        status = run.status()
        state = current_state(status)
        if state != "done":
            return dataclasses.replace(record, state=state)
        values, epoch = last_values(run.path / "log.tsv", column)
        ended = status.get("epoch") if recipe.until_loss else recipe.epochs
        ended = 0 if record.imported else ended
        if epoch != ended:
            raise RunError(f"log.tsv ends after epoch {epoch} of {ended}")
        seconds = status.get("seconds")
        if not isinstance(seconds, float):
            seconds = total_seconds(run.path / "log.tsv")
    except RunError as error:
        warn(f"not counted: {run.path}: {error}")
        return record
    measures, bases = read_measures(run.path, epoch, warn)
    return dataclasses.replace(
        record,
        state=state,
        # The log's columns come first, and win.
        values={**values, **measures, **values},
        bases=bases,
        seconds=seconds,
    )

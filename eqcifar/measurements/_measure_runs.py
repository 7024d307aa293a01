"""Every finished run below a folder, measured one after another."""

import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from ..config import DataConfig, SharpnessOptions, TrainConfig
from ..data import Dataset
from ..errors import EqcifarError, RunError, is_out_of_memory
from ..measures import check_measures
from ..parallel import bound_programs
from ..results import unmeasured
from ..runs import data_of
from ..sharpness import Measured
from ..storage import Run, find_runs
from ._measure_network import append_measures, measure_network
from ._measured_network import open_network
from ._work import Show, Warn, silent


@dataclasses.dataclass(frozen=True)
class RunOutcome:
    """What became of one run.

    - `state`: "measured" now, "there" where all was measured before, or "failed".
    - `message`: why it failed, in a line.
    - `found`: what was found, by split and measure.
    - `seconds`: how long it took.
    """

    path: Path
    state: Literal["measured", "there", "failed"]
    message: str = ""
    found: Mapping[str, Mapping[str, Measured]] = dataclasses.field(
        default_factory=dict
    )
    seconds: float = 0.0


def finished_runs(root: str | os.PathLike[str], *, warn: Warn = silent) -> list[Run]:
    """The finished runs in a folder and below, by path.

    **Arguments:**

    - `root`: the folder.
    - `warn`: called with a line for each run whose state cannot be read, and with how
        many are not finished.
    """
    finished, others = [], 0
    for run in find_runs(root, warn=warn):
        try:
            done = run.is_done()
        except RunError as error:
            warn(f"left out {run.path}: {error}")
            continue
        finished += [run] * done
        others += not done
    if others:
        what = "run that is" if others == 1 else "runs that are"
        warn(f"left out {others} {what} not finished")
    return finished


def measure_runs(
    runs: Iterable[Run],
    measures: Iterable[str],
    splits: Iterable[str],
    options: SharpnessOptions,
    *,
    devices: int | None = None,
    report: Callable[[Run], Show] = lambda run: silent,
    warn: Warn = silent,
) -> Iterator[RunOutcome]:
    """Measure runs one after another, each into its own `sharpness.tsv`.

    What a run has already is not measured again, see `eqcifar.results.unmeasured`, and
    what an equal call left unfinished goes on. A run that fails hinders no other. Runs
    of one architecture and size share their compiled programs, and those on the same
    data their images.

    **Arguments:**

    - `runs`: that are done, such as from `finished_runs`.
    - `measures`, `splits`, `options`, `devices`: as for `measure_network`.
    - `report`: called with a run; what it gives is called as by `measure_network`.
    - `warn`: called with a line when nothing can be kept.

    **Returns:**

    An outcome a run, as soon as it is there.

    **Raises:**

    `UsageError` for an unknown measure.
    """
    measures, splits, images = check_measures(measures), list(splits), _Images()

    def measure(run: Run) -> dict[str, dict[str, Measured]]:
        lacking = unmeasured(run, measures, splits, options)
        if not lacking:
            return {}
        trained = open_network(run.path, dataset=images.of(run))
        if not trained.same_data:
            raise RunError(
                f"{trained.dataset.name} is not the data that it was trained on: bring "
                "that back"
            )
        found: dict[str, dict[str, Measured]] = {}
        for names in dict.fromkeys(lacking.values()):
            part = measure_network(
                trained,
                names,
                [split for split in lacking if lacking[split] == names],
                options,
                devices=devices,
                report=report(run),
                warn=warn,
            )
            append_measures(trained, options, part, devices=devices)
            found |= part
        return found

    for run in runs:
        begin = time.monotonic()
        bound_programs()
        try:
            found = measure(run)
        except (EqcifarError, OSError, RuntimeError, MemoryError) as error:
            if isinstance(error, RuntimeError) and not is_out_of_memory(error):
                raise
            message = " ".join(str(error).split()) or type(error).__name__
            yield RunOutcome(run.path, "failed", message)
            continue
        state = "measured" if found else "there"
        yield RunOutcome(run.path, state, "", found, time.monotonic() - begin)


class _Images:
    """The data of runs, read once for those in a row that have the same."""

    def __init__(self):
        self._config: DataConfig | None = None
        self._dataset: Dataset | None = None

    def of(self, run: Run) -> Dataset:
        whole = TrainConfig.from_dict(run.config())
        names = [field.name for field in dataclasses.fields(DataConfig)]
        config = DataConfig(**{name: getattr(whole, name) for name in names})
        if self._dataset is None or config != self._config:
            self._dataset = None
            self._dataset = data_of(run.path, whole)
            self._config = config
        return self._dataset

import contextlib
import hashlib
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from ..errors import RunError, unknown
from ..extras import require
from ..storage import Run, config_hash, config_name, read_sharpness_log

Row = Mapping[str, int | float]


class Tracker(Protocol):
    """Something that shows the rows of a run's log elsewhere."""

    def log(self, row: Row):
        """Take an epoch, unless it has it already; raise what went wrong.

        **Arguments:**

        - `row`: numbers by column of the log; `epoch` is the step.
        """

    def close(self, done: bool):
        """Finish; `done` unless the run failed or was interrupted.

        **Arguments:**

        - `done`: whether the run is, or may go on.
        """


class Tracking:
    """Copies the rows of a run's log to trackers, as a context manager.

    `log.tsv` is the truth. A tracker gets all its rows when it is opened, so that it
    misses none that an earlier process had no time, or no tracker, for. What
    `sharpness_log.tsv` has of an epoch goes with its row. A tracker that fails is given
    up with a warning, and the run goes on.
    """

    def __init__(
        self, names: Sequence[str], *, warn: Callable[[str], None] = warnings.warn
    ):
        """Import what is needed; nothing is written yet.

        **Arguments:**

        - `names`: which of `TRACKERS`.
        - `warn`: called with a line about a tracker that fails.

        **Raises:**

        `UsageError` for a name that is not known or a package that is missing.
        """
        self._names, self._warn = tuple(dict.fromkeys(names)), warn
        for name in self._names:
            if name not in TRACKERS:
                raise unknown("tracker", name, TRACKERS)
            require(_MODULES[name], name, f"--track {name}")
        self._run: Run | None = None
        self._open: dict[str, Tracker] = {}

    def start(self, run: Run):
        """Open the trackers and bring them up to date with the run's log.

        With several processes, for the main one alone: elsewhere `log` does nothing.

        **Arguments:**

        - `run`: whose earlier rows are shown too.
        """
        self._run = run
        rows = run.log() if self._names else []
        for name in self._names:
            with self._giving_up(name):
                self._open[name] = TRACKERS[name](run)
        for row in rows:
            self.log(row)

    def log(self, row: Row):
        """Show another row, whose `epoch` is the step; what is nan is left out.

        Sharpness after the epoch is to be measured before.

        **Arguments:**

        - `row`: numbers by column of the log.
        """
        if not self._open:
            return
        assert self._run is not None  # noqa: S101, for the type checker
        measures: Row = {}
        try:
            path = self._run.path / "sharpness_log.tsv"
            measures = read_sharpness_log(path).get(int(row["epoch"]), {})
        except RunError as error:
            self._warn(f"not tracked: {error}")
        row = {**measures, **row}
        row = {key: value for key, value in row.items() if not math.isnan(value)}
        for name, tracker in list(self._open.items()):
            with self._giving_up(name):
                tracker.log(row)

    def close(self):
        """Finish what was started; at the end of the `with` block."""
        for name, tracker in list(self._open.items()):
            with self._giving_up(name):
                assert self._run is not None  # noqa: S101, for the type checker
                tracker.close(self._run.status()["state"] == "done")
        self._open.clear()

    def __enter__(self) -> "Tracking":
        return self

    def __exit__(self, *_: Any):
        self.close()

    @contextlib.contextmanager
    def _giving_up(self, name: str):
        try:
            yield
        except Exception as error:
            # Whatever a package raises without a network, a key or a place to write.
            self._open.pop(name, None)
            reason = " ".join(str(error).split()) or type(error).__name__
            self._warn(
                f"{name} failed and is given up, log.tsv goes on: {reason}; start the "
                "same command again later to send it all"
            )


class _TensorBoard:
    """Event files in the run's folder, for `tensorboard --logdir results`."""

    def __init__(self, run: Run):
        # Not tensorboardX's own SummaryWriter: its thread keeps a full disk to itself
        # and loses its queue in a kill.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore
        from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore

        self._event, self._summary = Event, Summary
        folder = run.path / "tensorboard"
        folder.mkdir(exist_ok=True)
        self._file = EventsWriter(str(folder / "events"))
        # Readers drop what earlier files say of this step and later ones: of all.
        restart = SessionLog(status=SessionLog.START)
        self._file.write_event(
            Event(wall_time=time.time(), step=1, session_log=restart)
        )
        self._file.flush()

    def log(self, row: Row):
        values = [
            self._summary.Value(tag=name, simple_value=value)
            for name, value in row.items()
            if name != "epoch"
        ]
        summary = self._summary(value=values)
        self._file.write_event(
            self._event(wall_time=time.time(), step=int(row["epoch"]), summary=summary)
        )
        self._file.flush()

    def close(self, done: bool):
        self._file.close()


class _WandB:
    """A run at Weights & Biases, or with `WANDB_MODE=offline` in the run's folder."""

    def __init__(self, run: Run):
        import wandb

        about = _describe(run)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "eqcifar"),
            id=about["id"],
            name=about["name"],
            group=about["group"],
            config=about["config"],
            tags=about["tags"],
            dir=run.path,
            resume="allow",
            # The terminal belongs to the progress bar.
            settings=wandb.Settings(console="off"),
        )

    def log(self, row: Row):
        # A run that is continued online knows its steps; offline it begins at 0, and
        # `wandb sync` of the later folder has them all.
        if row["epoch"] >= self._run.step:
            self._run.log(dict(row), step=int(row["epoch"]), commit=True)

    def close(self, done: bool):
        self._run.finish(exit_code=0 if done else 1)


class _Trackio:
    """A run in Trackio's local database, or where `TRACKIO_SPACE_ID` says."""

    def __init__(self, run: Run):
        import trackio

        about = _describe(run)
        self._run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", "eqcifar"),
            # Continued by its name, which has to be its own.
            name=f"{about['name']}-{about['id']}",
            group=about["group"],
            config={**about["config"], "synthetic": bool(about["tags"])},
            resume="allow",
            embed=False,
        )
        # It has no public name; nothing else tells what the database holds.
        self._next = self._run._next_step

    def log(self, row: Row):
        if row["epoch"] >= self._next:
            self._run.log(dict(row), step=int(row["epoch"]))

    def close(self, done: bool):
        self._run.finish()


def _describe(run: Run) -> dict[str, Any]:
    """What trackers show of a run, and an id that it keeps when it is continued."""
    from ..config import TrainConfig

    config, status = TrainConfig.from_dict(run.config()), run.status()
    birth = json.dumps([config.to_dict(), status.get("started")])
    group = f"{config_name(config)}-{config_hash(config)}"
    return {
        "id": hashlib.sha256(birth.encode()).hexdigest()[:12],
        "name": f"{group}-seed{config.seed}",
        "group": group,
        "config": config.to_dict(),
        "tags": ["SYNTHETIC"] if status.get("synthetic") else [],
    }


TRACKERS: dict[str, Callable[[Run], Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": _WandB,
    "trackio": _Trackio,
}


_MODULES = {"tensorboard": "tensorboardX", "wandb": "wandb", "trackio": "trackio"}

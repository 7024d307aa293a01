import contextlib
import dataclasses
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import RunError, UsageError
from ._files import find_folders, read_json
from ._log import read_log
from ._status import current_state

# Of config.json.
FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Run:
    """What one training run leaves in a folder.

    - `config.json`: the configuration, and what data and network it met;
    - `env.json`: versions, devices, flags, git commit, memory of a step;
    - `log.tsv`: a row an epoch, see `eqcifar.training.fit` for the columns;
    - `status.json`: whether it is running, done, failed or interrupted;
    - `last.safetensors`: the checkpoint from which it is continued;
    - `model.safetensors`: the trained network, when it is done;
    - `checkpoints/`: networks along training, where they are kept.

    Reading these does not need JAX. Folder names are for people: everything is in the
    files.
    """

    path: Path

    def description(self) -> dict[str, Any]:
        """What `config.json` says, see `eqcifar.runs.describe`.

        **Returns:**

        The JSON object; `data`, `model` and `about` are there, if empty.

        **Raises:**

        `RunError` when it is missing, of another version or holds no configuration.
        """
        description = read_json(self.path / "config.json")
        version = description.get("format", FORMAT)
        if version != FORMAT:
            raise RunError(
                f"config.json is of version {version!r}; this eqcifar reads version "
                f"{FORMAT}: use the one that wrote it, or a newer one"
            )
        if not isinstance(description.get("config"), dict):
            raise RunError("config.json holds no configuration")
        for name in ("data", "model", "about"):
            if not isinstance(description.setdefault(name, {}), dict):
                raise RunError(f"config.json: {name} is not a JSON object")
        for name, value in description["about"].items():
            if not isinstance(value, bool | int | float | str):
                raise RunError(f"config.json: about {name} is no number and no text")
        return description

    def config(self) -> dict[str, Any]:
        """The fields of the run's `TrainConfig`; `TrainConfig.from_dict` takes them.

        **Returns:**

        Values by field, as JSON has them.
        """
        return self.description()["config"]

    def environment(self) -> dict[str, Any]:
        """Where the run was last started: versions, devices, flags, git commit.

        **Returns:**

        The JSON object of `env.json`.
        """
        return read_json(self.path / "env.json")

    def status(self) -> dict[str, Any]:
        """How far the run has come.

        `state` is "running", "done", "failed", "interrupted", or "unknown" without a
        `status.json`. A killed run stays "running", with the `pid` and `host` it had.
        When it is done, `seconds` is the sum of its log's.

        **Returns:**

        The JSON object of `status.json`.
        """
        path = self.path / "status.json"
        return read_json(path) if path.exists() else {"state": "unknown"}

    def state(self) -> str:
        """What `status` means now: one of `STATES`.

        A run that was killed had no time to say so: it is interrupted when its process
        ran on this host and is gone, and when it has no status yet.

        **Returns:**

        "done", "running", "interrupted", "failed" or "unreadable".
        """
        return current_state(self.status())

    def log(self) -> list[dict[str, int | float]]:
        """The rows of `log.tsv`, one an epoch.

        **Returns:**

        Numbers by column; none before the first epoch has ended.
        """
        return read_log(self.path / "log.tsv")

    def checkpoint(self, epoch: int) -> Path:
        """Where the network after an epoch is kept, if it is.

        **Arguments:**

        - `epoch`: counted from 1; 0 is the start.

        **Returns:**

        The path of a model file.
        """
        return self.path / "checkpoints" / f"epoch{epoch:04d}.safetensors"

    def checkpoints(self) -> list[Path]:
        """The networks that were kept along training, in their order.

        **Returns:**

        Paths of model files.
        """
        files = self.checkpoint(0).parent.glob("epoch*.safetensors")
        return sorted(files, key=lambda file: (len(file.name), file.name))

    def is_done(self) -> bool:
        """Whether the run is complete, its model included.

        **Returns:**

        False without `model.safetensors`, whatever the state.

        **Raises:**

        `RunError` when `status.json` cannot be read.
        """
        return self.state() == "done" and (self.path / "model.safetensors").exists()

    def is_locked(self) -> bool:
        """Whether a process is at work on the run at this moment.

        **Returns:**

        False, too, where this process may not write.
        """
        import filelock

        lock = self.path / ".lock"
        if not lock.exists():
            return False
        try:
            with filelock.FileLock(lock, timeout=0):
                return False
        except filelock.Timeout:
            return True
        except OSError:
            # Who may not write here cannot know, and will be told so when it tries.
            return False


def find_runs(
    root: str | os.PathLike[str] = "results",
    *,
    warn: Callable[[str], None] = warnings.warn,
) -> list[Run]:
    """All runs in a folder and below, by path; symbolic links are not followed.

    **Arguments:**

    - `root`: the folder.
    - `warn`: called with a line for each folder that cannot be looked into.

    **Returns:**

    The runs, whatever their state.

    **Raises:**

    `UsageError` when there is no such folder.
    """
    return [Run(path) for path in find_folders(root, {"config.json"}, warn)]


def latest_run(root: str | os.PathLike[str] = "results") -> Run:
    """The run that was finished last.

    **Arguments:**

    - `root`: the folder of all runs.

    **Returns:**

    A run that is done.

    **Raises:**

    `UsageError` when there is none, with how many there are that are not finished.
    """
    finished, others = [], 0
    for run in find_runs(root):
        with contextlib.suppress(RunError):
            if run.is_done():
                finished.append((str(run.status().get("updated", "")), run))
                continue
        others += 1
    if not finished:
        there = f"{others} that are not finished" if others else "nothing"
        raise UsageError(f"no finished run in {os.fspath(root)}: there is {there}")
    return max(finished, key=lambda pair: pair[0])[1]


def explain_no_network(path: Path) -> str:
    """Why a folder has no network to read, and what to name instead.

    **Arguments:**

    - `path`: of a folder without a network in it, or of nothing.

    **Returns:**

    A line that says what to do.
    """
    if (path / "config.json").exists():
        last = path / "last.safetensors"
        hint = f", or name {last} to take it as it is" if last.exists() else ""
        return f"{path} has no model.safetensors: finish its training{hint}"
    if not path.is_dir():
        return f"no file or folder {path}"
    below = find_runs(path)
    if not below:
        return f"{path} is not the folder of a run, and there is none below it"
    count = f"{len(below)} runs" if len(below) > 1 else "a run"
    return (
        f"{path} is not the folder of a run but holds {count}: name one, such as "
        f"{below[0].path} (`eqcifar eval --out {path}` takes the one finished last)"
    )

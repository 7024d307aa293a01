import dataclasses
import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..config import TrainConfig
from ..errors import UsageError
from ._files import read_json
from ._log import read_log

_SHORT = {
    "width": "w",
    "dropout": "drop",
    "val_size": "val",
    "limit_train": "train",
    "limit_test": "test",
    "epochs": "ep",
    "batch_size": "bs",
    "momentum": "m",
    "weight_decay": "wd",
    "clip_norm": "clip",
    "label_smoothing": "ls",
    "bn_group": "bn",
    "mixup_group": "mixupgroup",
    "eval_every": "every",
    "decay_bias": "biasdecay",
    "test_flip": "testflip",
    "test_crop": "testcrop",
    "crop_pad": "pad",
    "bn_bias_lr": "bnlr",
}
_LONGEST_NAME = 80


@dataclasses.dataclass(frozen=True)
class Run:
    """What one training run leaves in a folder.

    - `config.json`: the configuration, and what data it met;
    - `env.json`: versions, devices, flags, git commit, memory of a step;
    - `log.tsv`: a row an epoch, see `eqcifar.training.fit` for the columns;
    - `status.json`: whether it is running, done, failed or interrupted;
    - `last.eqx`: the checkpoint from which it is continued;
    - `model.eqx`: the trained network, when it is done.

    Reading these does not need JAX. Folder names are for people: everything is in the
    files.
    """

    path: Path

    def config(self) -> dict[str, Any]:
        """The fields of the run's `TrainConfig`; `TrainConfig.from_dict` takes them."""
        config = read_json(self.path / "config.json").get("config")
        return config if isinstance(config, dict) else {}

    def environment(self) -> dict[str, Any]:
        """Where the run was last started: versions, devices, flags, git commit."""
        return read_json(self.path / "env.json")

    def status(self) -> dict[str, Any]:
        """How far the run has come.

        `state` is "running", "done", "failed", "interrupted", or "unknown" without a
        `status.json`. A killed run stays "running", with the `pid` and `host` it had.
        When it is done, `seconds` is the sum of its log's.
        """
        path = self.path / "status.json"
        return read_json(path) if path.exists() else {"state": "unknown"}

    def log(self) -> list[dict[str, int | float]]:
        """The rows of `log.tsv`, one an epoch."""
        return read_log(self.path / "log.tsv")

    def is_done(self) -> bool:
        """Whether the run is complete, its model included."""
        return self.status()["state"] == "done" and (self.path / "model.eqx").exists()

    def is_claimed(self) -> bool:
        """Whether a process is at work on the run at this moment."""
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


def run_path(root: str | os.PathLike[str], config: TrainConfig) -> Path:
    """The folder of a run: `root/<dataset>/<config name>-<hash>/seed<k>`."""
    # Of a folder the last name, for where it lies is no property of a run.
    dataset = config.dataset
    if Path(dataset).is_absolute() or dataset.startswith((".", "~")):
        dataset = Path(dataset).name
    dataset = _safe(dataset)[-_LONGEST_NAME:].lstrip("._-") or "dataset"
    name = f"{config_name(config)}-{config_hash(config)}"
    return Path(root) / dataset / name / f"seed{config.seed}"


def config_name(config: TrainConfig) -> str:
    """The architecture and whatever differs from the default, to be read by people."""
    parts = [config.arch]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in ("arch", "dataset", "seed") or value == field.default:
            continue
        name = _SHORT.get(field.name, field.name)
        if isinstance(value, bool):
            parts.append(name if value else f"no{name}")
        elif isinstance(value, str):
            parts.append(value)
        elif isinstance(value, tuple):
            parts.append(name + "_".join(f"{number:g}" for number in value))
        else:
            parts.append(f"{name}{value:g}")
    return _safe("-".join(parts))[:_LONGEST_NAME].strip("._-")


def config_hash(config: TrainConfig) -> str:
    """Eight hexadecimal digits that all seeds of a configuration share."""
    fields = config.identity()
    del fields["seed"]
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def find_runs(
    root: str | os.PathLike[str] = "results",
    *,
    warn: Callable[[str], None] = warnings.warn,
) -> list[Run]:
    """All runs in a folder and below, by path; symbolic links are not followed.

    **Arguments:**

    - `root`: the folder.
    - `warn`: called with a line for each folder that cannot be looked into.

    **Raises:**

    `UsageError` when there is no such folder.
    """
    if not os.path.isdir(root):
        raise UsageError(f"no folder {os.fspath(root)}: nothing was trained there")
    return [Run(Path(path)) for path in sorted(_walk(os.fspath(root), warn))]


def latest_run(root: str | os.PathLike[str] = "results") -> Run:
    """The run whose status changed last.

    **Raises:**

    `UsageError` when there is none.
    """
    runs = find_runs(root)
    if not runs:
        raise UsageError(f"no runs in {os.fspath(root)}: nothing was trained there")
    return max(runs, key=lambda run: str(run.status().get("updated", "")))


def _walk(root: str, warn: Callable[[str], None]) -> Iterator[str]:
    pending = [root]
    while pending:
        here = pending.pop()
        folders = []
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    if entry.name == "config.json":
                        if entry.is_file(follow_symlinks=False):
                            yield here
                            break
                    elif entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                else:
                    pending += folders
        except OSError as error:
            warn(f"left out {here}: {error.strerror}")


def _safe(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", text)

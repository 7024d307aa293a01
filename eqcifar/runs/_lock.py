import datetime
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import filelock

from ..config import TrainConfig
from ..errors import EqcifarError, RunError, UsageError
from ..parallel import everywhere, is_main_process
from ..storage import Run, cannot_write, remove_temporaries, write_json
from ._environment import differences


class RunLock:
    """A run that this process alone works on, as a context manager.

    Entering it takes a lock, which dies with the process, and shows that the folder
    can be written. `status.json` tells how it was left. With several processes, the
    main one writes, and all learn whether it could.
    """

    def __init__(
        self, run: Run, config: TrainConfig, check: Callable[[], None] = lambda: None
    ):
        """Nothing is touched before the lock is taken.

        **Arguments:**

        - `run`: its folder is made if necessary.
        - `config`: of the run.
        - `check`: called when the lock is taken, to refuse what the folder holds.
        """
        self.run, self._check = run, check
        self._status = {"epochs": config.epochs, "seed": config.seed}
        self._lock = filelock.FileLock(run.path / ".lock")

    def __enter__(self) -> "RunLock":
        _on_main(self.run.path, self._open)
        return self

    def write(self, action: Callable[[], object]):
        """Let the main process write to the run's folder; others fail where it does.

        **Arguments:**

        - `action`: what writes.

        **Raises:**

        What `action` raises, `RunError` in place of an `OSError`, and where somebody
        has removed the lock or the folder.
        """

        def write():
            self._require_lock()
            action()

        _on_main(self.run.path, write)

    def __exit__(self, kind, error, traceback):
        try:
            if isinstance(error, KeyboardInterrupt):
                self.report("interrupted", message="interrupted by the keyboard")
            elif isinstance(error, EqcifarError):
                self.report("failed", message=str(error))
            elif error is not None:
                self.report("failed", message=f"{type(error).__name__}: {error}")
        except EqcifarError:
            # Such as a full disk, which `error` then tells of too.
            pass
        finally:
            self._lock.release()

    def report(
        self, state: str, epoch: int | None = None, message: str = "", **more: Any
    ):
        """Say in `status.json` how the run is, and `more`; on the main process."""
        if not is_main_process():
            return
        self._require_lock()
        if epoch is not None:
            self._status["epoch"] = epoch
        self._status |= {"state": state, "message": message, "updated": _now()}
        self._status |= more
        write_json(self.run.path / "status.json", self._status)

    def describe(self, description: Mapping[str, Any], environment: dict[str, Any]):
        """Write what the run is and where it runs; on the main process.

        **Arguments:**

        - `description`: see `eqcifar.runs.describe`.
        - `environment`: versions, devices and flags.
        """
        synthetic = description["synthetic"]
        self._status["synthetic"] = synthetic
        environment = {"started": _now(), "synthetic": synthetic, **environment}
        path = self.run.path / "env.json"
        if path.exists():
            *earlier, last = self._environments()
            if differences(last, environment):
                earlier.append(last)
            environment["earlier"] = earlier
        write_json(path, environment)
        write_json(self.run.path / "config.json", description)

    def describe_memory(self, **memory: int | None):
        """Add to `env.json` what a step takes on a device; on the main process.

        **Arguments:**

        - `step_planned_bytes`: at the peak of a step, by the compiler.
        - `peak_bytes`: most in use so far, by the device.
        """
        environment = self.run.environment()
        environment["memory"] = {**environment.get("memory", {}), **memory}
        write_json(self.run.path / "env.json", environment)

    def _environments(self) -> list[dict[str, Any]]:
        last = self.run.environment()
        return [*last.pop("earlier", []), last]

    def _open(self):
        path = self.run.path
        path.mkdir(parents=True, exist_ok=True)
        try:
            # Some patience, for `Run.is_locked` holds it while it looks.
            self._lock.acquire(timeout=0.2, poll_interval=0.02)
        except filelock.Timeout:
            raise UsageError(self._in_use()) from None
        self._taken = self._file()
        try:
            remove_temporaries(path)
            self._check()
            before = self.run.status()
            now = _now()
            self._status |= {
                "epoch": before.get("epoch", 0),
                "synthetic": before.get("synthetic"),
                "started": before.get("started", now),
                "resumed": now if "started" in before else None,
                "pid": os.getpid(),
                "host": socket.gethostname(),
            }
            self.report("running")
        except BaseException:
            self._lock.release()
            raise

    def _file(self) -> int | None:
        try:
            return os.stat(self.run.path / ".lock").st_ino
        except FileNotFoundError:
            return None

    def _require_lock(self):
        if self._file() != self._taken:
            raise RunError(
                f"{self.run.path / '.lock'} was removed while it was in use, so that "
                "another process may write there: nothing is written since then; start "
                "again when there is none"
            )

    def _in_use(self) -> str:
        try:
            status = self.run.status()
        except RunError:
            status = {}
        return (
            f"run directory {self.run.path} in use by pid {status.get('pid', '?')} on "
            f"host {status.get('host', '?')}: wait for it to end, or stop it"
        )


def _on_main(path: Path, action: Callable[[], object]):
    """Let the main process write to a folder; the others fail where it does.

    **Raises:**

    What `action` raises, `RunError` in place of an `OSError`.
    """

    def write():
        if not is_main_process():
            return
        try:
            action()
        except OSError as error:
            raise cannot_write(Path(error.filename or path), error) from error

    everywhere(write)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")

import atexit
import contextlib
import functools
import logging
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from filelock import FileLock

from ..errors import RunError
from ..storage import replacing

_log = logging.getLogger("eqcifar")

_Arrays = dict[str, np.ndarray]


def cache_folder() -> Path:
    """Return where decoded images are kept, which need not exist yet.

    `$EQCIFAR_CACHE`, else `$XDG_CACHE_HOME/eqcifar`, else `~/.cache/eqcifar`; for a
    user without a home folder, a temporary folder that goes with the process.
    """
    folder = os.environ.get("EQCIFAR_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or "~/.cache", "eqcifar"
    )
    # What cannot be expanded is left as it is.
    folder = os.path.expanduser(folder)
    return _temporary_folder() if folder.startswith("~") else Path(folder)


@functools.cache
def _temporary_folder() -> Path:
    folder = tempfile.TemporaryDirectory(prefix="eqcifar-")
    atexit.register(folder.cleanup)
    _log.warning(
        "This user has no home folder: nothing is cached for the next start, unless "
        "EQCIFAR_CACHE names a folder."
    )
    return Path(folder.name)


def cached(
    key: str, build: Callable[[], _Arrays], keep: Callable[[], bool] = lambda: True
) -> _Arrays:
    """Read arrays from the cache, or build and keep them.

    A damaged file is built again; a cache that cannot be written costs only time.
    Processes started together build once: the others wait.

    **Arguments:**

    - `key`: holds all that the arrays depend on.
    - `build`: makes them.
    - `keep`: says after `build` whether `key` did hold all.
    """
    path = cache_folder() / f"{key}.npz"
    if (arrays := _read(path)) is not None:
        return arrays
    with _locked(path):
        if (arrays := _read(path)) is not None:
            return arrays
        arrays = build()
        if not keep():
            return arrays
        try:
            _write(path, arrays)
        except RunError as error:
            _log.warning("Decoded images were not kept: %s", error)
        return arrays


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        # Without a folder to write to, each process builds for itself.
        with contextlib.suppress(OSError, NotImplementedError):
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(path.with_suffix(".lock")))
        yield


def _read(path: Path) -> _Arrays | None:
    try:
        # zipfile compares each member's CRC-32 when it is read to the end.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except FileNotFoundError:
        return None
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        _log.warning("Ignoring the damaged cache file %s: %s", path, error)
        return None


def _write(path: Path, arrays: _Arrays) -> None:
    with replacing(path) as file:
        np.savez(file, allow_pickle=False, **arrays)  # pyright: ignore

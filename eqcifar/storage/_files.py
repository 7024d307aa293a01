import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import RunError

_TEMPORARY = ".tmp-"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` at the end, or never existed.

    What is written is on the disk before it gets its name, so that after a kill or a
    power cut `path` holds the old content or the new, whole.

    **Raises:**

    `RunError` with the path and the reason, such as a full disk.
    """
    temporary = path.with_name(f"{_TEMPORARY}{os.getpid()}-{path.name}")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        # Where nothing can be written, nothing can be removed either.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def cannot_write(path: Path, error: OSError) -> RunError:
    """The one line that a failed write is reported with."""
    reason = error.strerror or str(error)
    return RunError(
        f"cannot write {path}: {reason}; make room or allow writing there, then start "
        "again: what is already saved is intact"
    )


def remove_temporaries(folder: Path):
    """Delete what a killed process left half-written; no other may be writing."""
    for path in folder.glob(f"{_TEMPORARY}*"):
        path.unlink(missing_ok=True)


def write_json(path: Path, value: Mapping[str, Any]):
    """Replace a JSON file."""
    with replacing(path) as file:
        file.write(json.dumps(value, indent=2).encode() + b"\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    **Raises:**

    `RunError` with the path when it is missing or not a JSON object.
    """
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise RunError(f"cannot read {path}: it is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise RunError(f"cannot read {path}: it is not a JSON object")
    return value


def _sync_folder(folder: Path):
    # Without it, the new name of a file can be lost although its content is not.
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

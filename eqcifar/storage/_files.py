import contextlib
import errno
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import RunError, UsageError
from ._check import CHECK, LOOKS_LIKE_CHECK, changed, check_of

_TEMPORARY = ".tmp-"


# What follows the check, which is the last value of a JSON file.
_END = b'"\n}\n'


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` at the end, or never existed.

    What is written is on the disk before it gets its name, so that after a kill or a
    power cut `path` holds the old content or the new, whole.

    **Arguments:**

    - `path`: of the file, which need not exist; its folder does.

    **Returns:**

    A context manager that gives the file, open for binary writing.

    **Raises:**

    `RunError` with the path and the reason, such as a full disk.
    """
    temporary = path.with_name(f"{_TEMPORARY}{os.getpid()}-{path.name}")
    try:
        with open(temporary, "wb") as file:
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
    """The one line that a failed write is reported with.

    **Arguments:**

    - `path`: what was being written.
    - `error`: why it could not be.

    **Returns:**

    An error to raise.
    """
    if error.errno == errno.ENOENT:
        return RunError(f"cannot write {path}: there is no folder {path.parent}")
    reason = error.strerror or str(error)
    return RunError(
        f"cannot write {path}: {reason}; make room or allow writing there, then start "
        "again: what is already saved is intact"
    )


def remove_temporaries(folder: Path):
    """Delete what a killed process left half-written in a folder.

    **Arguments:**

    - `folder`: into which no other process may be writing.
    """
    for path in folder.glob(f"{_TEMPORARY}*"):
        path.unlink(missing_ok=True)


def write_json(path: Path, value: Mapping[str, Any]):
    """Replace a JSON file, in one step; its key `check` is a CRC-32 of the others.

    **Arguments:**

    - `path`: of the file, which need not exist.
    - `value`: its new content.

    **Raises:**

    `RunError` with the path and the reason, such as a full disk.
    """
    content = json.dumps({**value, CHECK: ""}, indent=2).encode()
    with replacing(path) as file:
        file.write(_with_check(content.removesuffix(_END.rstrip())))


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading, of a folder that may be another's.

    **Arguments:**

    - `path`: of the file; a link to one will do.

    **Returns:**

    The file, open for binary reading.

    **Raises:**

    `OSError` as `open` does, and for pipes and devices, which may never end.
    """
    # Without waiting for someone who would write into a pipe.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return open(descriptor, "rb")
    os.close(descriptor)
    raise OSError(errno.EINVAL, "it is no regular file", os.fspath(path))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object, without the key `check` if it has one.

    **Raises:**

    `RunError` with the path when it is missing or not a JSON object, and when it is not
    as `write_json` left it.
    """
    try:
        with open_regular(path) as file:
            text = file.read()
        value = json.loads(text)
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise RunError(f"cannot read {path}: it is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise RunError(f"cannot read {path}: it is not a JSON object")
    # Where its name was changed too, it is still seen.
    if CHECK in value or LOOKS_LIKE_CHECK.search(text):
        if text != _with_check(text[: len(text) - len(_with_check(b""))]):
            raise changed(f"cannot read {path}: it", f"remove its key {CHECK}")
        del value[CHECK]
    return value


def _with_check(content: bytes) -> bytes:
    return content + check_of(content).encode() + _END


def find_folders(
    root: str | os.PathLike[str], names: Set[str], warn: Callable[[str], None]
) -> list[Path]:
    """The folders that hold a file of some name, in a folder and below, by path.

    Below such a folder none is looked for. Symbolic links are not followed.

    **Arguments:**

    - `root`: the folder to begin with.
    - `names`: of files, of which one is enough.
    - `warn`: called with a line for each folder that cannot be looked into.

    **Returns:**

    Their paths, sorted.

    **Raises:**

    `UsageError` when there is no such folder.
    """
    if not os.path.isdir(root):
        raise UsageError(f"no folder {os.fspath(root)}: nothing was trained there")
    return [Path(path) for path in sorted(_walk(os.fspath(root), names, warn))]


def _walk(root: str, names: Set[str], warn: Callable[[str], None]) -> Iterator[str]:
    pending = [root]
    while pending:
        here = pending.pop()
        folders = []
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    if entry.name in names:
                        if entry.is_file(follow_symlinks=False):
                            yield here
                            break
                    elif entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                else:
                    pending += folders
        except OSError as error:
            warn(f"left out {here}: {error.strerror}")


def _sync_folder(folder: Path):
    # Without it, the new name of a file can be lost although its content is not.
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

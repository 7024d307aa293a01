import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

# By relative path, which tells split and class, the file that is read.
Files = dict[str, str]


def list_files(folder: str) -> Files:
    """All files of a folder and below, links followed, hidden ones aside."""
    return dict(_below(folder, "", ()))


def _below(
    folder: str, relative: str, above: tuple[str, ...]
) -> Iterator[tuple[str, str]]:
    real = os.path.realpath(folder)
    if real in above:
        return  # A link to a folder that it lies in.
    with os.scandir(real) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            name = os.path.join(relative, entry.name)
            if entry.name.startswith("."):
                continue
            path = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
            if os.path.isdir(path):
                yield from _below(path, name, (*above, real))
            elif os.path.isfile(path):
                yield name, path


def outside(folder: str | os.PathLike[str], paths: Iterable[str]) -> list[str]:
    """Say how many files lie elsewhere, behind links or named by rows of a table."""
    real = Path(folder).resolve()
    there = sorted(path for path in paths if real not in Path(path).resolve().parents)
    if not there:
        return []
    return [f"{len(there)} of its files lie outside of the folder, such as {there[0]}"]


def stamp(files: Files) -> str:
    """Digits that change when a file is added, removed, moved, relinked or written to.

    The time of the last change to an inode is among them, which no tool sets back.
    """
    digest = hashlib.sha256()
    for relative, path in files.items():
        stat = os.stat(path)
        times = f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"
        digest.update("\0".join((relative, path, times, "")).encode())
    return digest.hexdigest()[:24]

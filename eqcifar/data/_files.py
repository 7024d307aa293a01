import hashlib
import os
from collections.abc import Iterator

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
            if entry.is_dir():
                yield from _below(entry.path, name, (*above, real))
            elif entry.is_file():
                link = entry.is_symlink()
                yield name, os.path.realpath(entry.path) if link else entry.path


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

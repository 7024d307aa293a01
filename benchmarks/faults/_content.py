"""What a fault may not change: the digests of files and the rows of tables."""

import hashlib
from pathlib import Path

# Columns of times, and what is computed from the whole row.
TIMES = "seconds", "images_per_s", "time", "check"


def content(folder: Path) -> dict[str, object]:
    """Of all runs below a folder: weights, statistics, optimiser, logs, measures."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".safetensors":
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.suffix == ".tsv":
            found[name] = rows(path)
    return found


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table without times."""
    lines = [line.split("\t") for line in path.read_text().splitlines()]
    return [
        {k: v for k, v in zip(lines[0], line, strict=False) if k not in TIMES}
        for line in lines[1:]
    ]


def differing(found: dict[str, object], expected: dict[str, object]) -> str:
    """The names of what differs; empty where all is the same."""
    names = {**expected, **found}
    return ", ".join(k for k in names if found.get(k) != expected.get(k))

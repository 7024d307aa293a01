"""Processes that train together have to be started alike."""

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..parallel import texts_of_all

_SHOWN = 5
_PATIENCE = 20.0


def check_alike(what: Mapping[str, Any]):
    """Refuse to go on where processes were given different things; all must call it.

    **Arguments:**

    - `what`: what they were given: JSON values by name.

    **Raises:**

    `UsageError` on each of them, with what differs.
    """
    texts = texts_of_all(json.dumps(what, sort_keys=True))
    first, *others = (json.loads(text) for text in texts)
    for number, other in enumerate(others, start=1):
        differing = list(_differing(first, other, number))
        if differing:
            more = len(differing) - _SHOWN
            end = f" and {more} more" if more > 0 else ""
            raise UsageError(
                f"the processes were not started alike: {'; '.join(differing[:_SHOWN])}"
                f"{end}: give all of them the same options and data"
            )


def _differing(first: Any, other: Any, number: int, name: str = "") -> Iterator[str]:
    if isinstance(first, dict) and isinstance(other, dict):
        for key in {**first, **other}:
            yield from _differing(first.get(key), other.get(key), number, key)
    elif first != other:
        values = (repr(value)[:40] for value in (first, other))
        yield "{} {} in process 0, {} in process {}".format(name, *values, number)


def check_shared(file: Path):
    """Refuse a folder that this process does not share with the one that wrote there.

    **Arguments:**

    - `file`: what the other process has written; a network's file system may be slow.

    **Raises:**

    `UsageError` naming the folder.
    """
    until = time.monotonic() + _PATIENCE
    while not file.exists():
        if time.monotonic() > until:
            raise UsageError(
                f"{file.parent} is not the same folder for all processes: name one on "
                "a file system that they share, with --out"
            )
        time.sleep(0.2)

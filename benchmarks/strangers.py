"""Give every reader files that are damaged, forged or made to harm, and count.

Each must end in the right numbers or in one clear line: no traceback, no code of the
file run, no connection opened, no wrong number in a table. The places of `environment`
are no files, but hold the same: a tiny network has its numbers there, or a line.

    python -m benchmarks strangers
    python -m benchmarks strangers --only texts,settings --tries 100 --unkept
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .shared import Row, parser, row, store

# Of random damage to checkpoints, of forged ones, and of changes to each text file.
DAMAGED, FORGED, EDITED = 10_000, 1_000, 1_000
_SHOWN = 160


def _checkpoints(folder: Path, tries: int) -> list[Any]:
    from .hostile import _checkpoints

    return [_checkpoints.corrupted(folder, tries or DAMAGED)]


def _forged(folder: Path, tries: int) -> list[Any]:
    from .hostile import _checkpoints

    return [_checkpoints.consistent(folder, tries or FORGED)]


def _texts(folder: Path, tries: int) -> list[Any]:
    from .hostile import _texts

    return _texts.run_files(folder, tries or EDITED)


def _settings(folder: Path, tries: int) -> list[Any]:
    from .hostile import _texts

    return _texts.settings(folder, tries or EDITED)


def _datasets(folder: Path, tries: int) -> list[Any]:
    from .hostile import _datasets

    return _datasets.datasets(folder)


def _names(folder: Path, tries: int) -> list[Any]:
    from .hostile import _datasets, _names

    (folder / "x.png").write_bytes(_datasets.image())
    return [_names.tables(folder), _names.exports(folder)]


def _environment(folder: Path, tries: int) -> list[Any]:
    from .hostile import _environment

    return _environment.environments(folder)


PARTS: dict[str, Callable[[Path, int], list[Any]]] = {
    "texts": _texts,
    "settings": _settings,
    "checkpoints": _checkpoints,
    "forged": _forged,
    "datasets": _datasets,
    "names": _names,
    "environment": _environment,
}


def rows(parts: tuple[str, ...] = tuple(PARTS), tries: int = 0) -> list[dict[str, Any]]:
    """What became of each kind of file.

    **Arguments:**

    - `parts`: of `PARTS`.
    - `tries`: how many of each; by default as many as the constants above say.

    **Returns:**

    A row a fault: `fault`, `tries`, `lost` (tracebacks, code run), `wrong` (taken for
    what it is not), `refused` (in one line), `seconds` (the most for one), `memory`
    (the most for one, MiB beyond the file's size) and `line`, the last that was shown.
    """
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    found = []
    for part in parts:
        with tempfile.TemporaryDirectory() as folder:
            for fault in PARTS[part](Path(folder), tries):
                # Where on this machine it was is nobody's business.
                line = fault.line.replace(folder, "FOLDER")[:_SHOWN]
                names = (
                    "fault",
                    "tries",
                    "lost",
                    "wrong",
                    "refused",
                    "seconds",
                    "memory",
                )
                about = {name: getattr(fault, name) for name in names}
                found.append({**about, "line": line})
    return found


def main(argv: list[str]):
    """Read, count and store."""
    options = parser(__doc__)
    options.add_argument("--only", default=",".join(PARTS), help="parts, with commas")
    options.add_argument("--tries", type=int, default=0, help="of each kind")
    options.add_argument("--unkept", action="store_true", help="store nothing")
    args = options.parse_args(argv)
    found = rows(tuple(args.only.split(",")), args.tries)
    for each in found:
        print(each, flush=True)
    if not args.unkept:
        store("strangers", [part for each in found for part in _stored(each)])


def _stored(found: dict[str, Any]) -> list[Row]:
    name = found["fault"]
    return [
        row(name, "tries", found["tries"]) | {"line": found["line"]},
        row(name, "lost", found["lost"]),
        row(name, "silently wrong", found["wrong"]),
        row(name, "refused in a line", found["refused"]),
        row(name, "s, at most", round(found["seconds"], 3)),
        row(name, "MiB beyond the file, at most", round(found["memory"], 1)),
    ]

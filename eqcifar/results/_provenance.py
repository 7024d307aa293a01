"""Where numbers come from: the command, the versions and the hardware."""

import contextlib
from collections.abc import Iterable
from typing import Any

from ..errors import RunError
from ..storage import Run
from ._records import Record

_SHOWN = "python", "eqcifar", "jax", "equinox", "optax"


def hardware(records: Iterable[Record]) -> list[str]:
    """What the runs were trained on, such as "8 x NVIDIA A100"; of each kind once.

    **Arguments:**

    - `records`: from `read_records`.

    **Returns:**

    Lines, none twice; empty without an `env.json`.
    """
    kinds = dict.fromkeys(_device(env) for env in _environments(records))
    return [kind for kind in kinds if kind]


def software(records: Iterable[Record]) -> list[str]:
    """The versions and commits that the runs were trained with; of each kind once.

    **Arguments:**

    - `records`: from `read_records`.

    **Returns:**

    Lines, none twice; empty without an `env.json`.
    """
    kinds = {}
    for env in _environments(records):
        versions = env.get("versions")
        if isinstance(versions, dict):
            words = [f"{name} {versions[name]}" for name in _SHOWN if name in versions]
            commit = str(env.get("git") or "")
            words += [f"commit {commit[:12]}"] if commit else []
            words += ["with local changes"] if commit.endswith("-dirty") else []
            kinds[", ".join(words)] = None
    return list(kinds)


def _device(env: dict[str, Any]) -> str:
    devices = env.get("devices")
    if not isinstance(devices, dict):
        return ""
    kind = str(devices.get("kind", "unknown device"))
    if devices.get("platform") == "cpu":
        kind = f"CPU with {devices.get('cpus', '?')} cores"
    count = devices.get("count", 1)
    return kind if count == 1 else f"{count} x {kind}"


def _environments(records: Iterable[Record]) -> Iterable[dict[str, Any]]:
    for record in records:
        # The original has none; one that is broken does not make a number wrong.
        with contextlib.suppress(RunError):
            yield Run(record.path).environment()

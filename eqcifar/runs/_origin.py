"""Where numbers come from: the command, the versions and the hardware."""

import contextlib
import shlex
from collections.abc import Iterable
from typing import Any

from ..config import TrainConfig
from ..errors import RunError
from ._directory import Run
from ._fields import DEFAULTS
from ._records import Record

_SHOWN = "python", "eqcifar", "jax", "equinox", "optax"


def train_arguments(recipe: TrainConfig) -> list[str]:
    """The options of `eqcifar train` for a configuration, without the seed.

    They name what is not the default, so that they hold for the version of the package
    that the run is made with.
    """
    words = ["--arch", recipe.arch, "--dataset", recipe.dataset]
    for name, default in DEFAULTS.items():
        value = getattr(recipe, name)
        if name in ("arch", "dataset", "seed") or value == default:
            continue
        words += option_words(name, value)
    return words


def option_words(name: str, value: Any) -> list[str]:
    """A field of a configuration as `eqcifar train` takes it."""
    option = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{option}" if value else f"--no-{option}"]
    values = value if isinstance(value, tuple) else [value]
    return [f"--{option}", *map(str, values)]


def train_command(recipe: TrainConfig, seeds: Iterable[int]) -> str:
    """The command line that trains these seeds of a configuration.

    There is none for runs that were made in Python, see `Record.in_python`.
    """
    command = shlex.join(["eqcifar", "train", *train_arguments(recipe)])
    seeds = sorted(set(seeds))
    if len(seeds) == 1:
        return f"{command} --seed {seeds[0]}"
    each = " ".join(map(str, seeds))
    return f'for seed in {each}; do {command} --seed "$seed"; done'


def hardware(records: Iterable[Record]) -> list[str]:
    """What the runs were trained on, such as "8 x NVIDIA A100"; of each kind once."""
    kinds = dict.fromkeys(_device(env) for env in _environments(records))
    return [kind for kind in kinds if kind]


def software(records: Iterable[Record]) -> list[str]:
    """The versions and commits that the runs were trained with; of each kind once."""
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
    kind = devices.get("kind", "unknown device")
    if devices.get("platform") == "cpu":
        kind = f"CPU with {devices.get('cpus', '?')} cores"
    count = devices.get("count", 1)
    return kind if count == 1 else f"{count} x {kind}"


def _environments(records: Iterable[Record]) -> Iterable[dict[str, Any]]:
    for record in records:
        # The original has none; one that is broken does not make a number wrong.
        with contextlib.suppress(RunError):
            yield Run(record.path).environment()

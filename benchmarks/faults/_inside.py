"""What happens inside a process: a command, on a disk that is slow or not atomic."""

import contextlib
import dataclasses
import faulthandler
import io
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import optax

from eqcifar import data, models, runs
from eqcifar.config import TrainConfig
from eqcifar.runs import _array_file, _train
from eqcifar.storage import _files, _growing_table, _log
from eqcifar.training import _fit
from eqcifar_cli import _training, app

_PIECES, _PAUSE, _HANGS = 4, 0.01, 200


def run(
    files: Sequence[Path],
    prepare: Callable[[], None] | None,
    options: Mapping[str, Any],
    env: Mapping[str, str],
    work: Callable[..., None] | None,
    command: Sequence[object],
):
    """A worker's life: its output goes to files, then it does what it is for."""
    for path, descriptor in zip(files, (1, 2), strict=True):
        opened = os.open(path, os.O_WRONLY)
        os.dup2(opened, descriptor)
        os.close(opened)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # pyright: ignore
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ.update(env)
    # What hangs tells where.
    faulthandler.dump_traceback_later(_HANGS)
    for name, value in options.items():
        jax.config.update(name, value)
    if prepare is not None:
        prepare()
    if work is not None:
        work(*command)
    else:
        app(args=[str(word) for word in command], prog_name="eqcifar")


def save_often():
    """A checkpoint after each epoch, written to a slow disk: kills meet writes."""
    _train._MOST_TIME_SAVING = 1e9
    setattr(_files, "open", _open)  # noqa: B010


def save_in_place():
    """The control: the same disk, but files are written where they belong."""
    save_often()
    for module in (_files, _growing_table, _log, _array_file):
        setattr(module, "replacing", _in_place)  # noqa: B010


class _SlowFile(io.FileIO):
    def write(self, content: Any) -> int:
        view = memoryview(content)
        size = max(len(view) // _PIECES, 1)
        for start in range(0, len(view), size):
            super().write(view[start : start + size])
            time.sleep(_PAUSE)
        return len(view)


def _open(path: Any, mode: str = "r", **kwargs: Any) -> Any:
    return _SlowFile(path, mode) if mode == "wb" else open(path, mode, **kwargs)


@contextlib.contextmanager
def _in_place(path: Path) -> Iterator[Any]:
    with _SlowFile(path, "wb") as file:
        yield file


# Where a process says what it is about to do, and the function that does it.
PHASES: dict[str, tuple[Any, str]] = {
    "decoding": (data._load, "synthetic"),
    "compilation": (_fit, "planned_memory"),
    "training": (_fit, "copied"),
    "evaluation": (_fit, "predict"),
    "saving": (_train, "save_checkpoint"),
    "measuring": (_training.measurements.SharpnessLog, "on_epoch"),
}


def announcing(phase: str, connection: Any) -> None:
    """Tell through a connection each time that a phase begins."""
    where, name = PHASES[phase]
    function = getattr(where, name)

    def told(*args: Any, **kwargs: Any) -> Any:
        with contextlib.suppress(OSError):
            connection.send(phase)
        return function(*args, **kwargs)

    setattr(where, name, told)


# Drawn once, by the server.
_IMAGES = data.synthetic(10)
data.DATASETS["synthetic"] = lambda: _IMAGES


class _Net(eqx.Module):
    hidden: eqx.nn.Linear
    norm: models.BatchNorm
    dropout: eqx.nn.Dropout
    linear: eqx.nn.Linear

    def __init__(self, *, key: Any):
        key1, key2 = jax.random.split(key)
        self.hidden = eqx.nn.Linear(8 * 8 * 3, 32, key=key1)
        self.norm = models.BatchNorm(32)
        self.dropout = eqx.nn.Dropout(0.1)
        self.linear = eqx.nn.Linear(32, 4, key=key2)

    def __call__(self, x: Any, state: Any, *, key: Any = None) -> Any:
        x, state = self.norm(self.hidden(x.ravel())[:, None, None], state)
        x = self.dropout(jax.nn.relu(x).ravel(), key=key)
        return self.linear(x), state


def train_by_script(out: Path, fields: dict[str, Any], own: bool, keep_every: int):
    """A script of somebody with a network and images, and maybe an optimiser."""
    rng = np.random.default_rng(0)

    def split(n):
        images = rng.integers(0, 256, (n, 8, 8, 3), np.uint8)
        return data.Split(images, rng.integers(0, 4, n, np.int32))

    lion = optax.chain(optax.scale_by_lion(), optax.scale(-1e-3))
    runs.train_run_with(
        out / "run",
        data.Dataset("noise", tuple("abcd"), split(64), split(16), None, True),
        *eqx.nn.make_with_state(_Net)(key=jax.random.key(0)),
        TrainConfig(arch="mlp", batch_size=16, mixup=0.4, **fields),
        optimiser=lion if own else None,
        keep_every=keep_every,
    )


def compiling_anew(phase: str, connection: Any):
    """As `announcing`, and nothing compiled is read again, so that it takes time."""
    jax.config.update("jax_enable_compilation_cache", False)
    announcing(phase, connection)


def other_images():
    """Somebody changed a pixel where this process looks for images."""
    images = _IMAGES.train.images.copy()
    images[0, 0, 0, 0] ^= 1
    train = dataclasses.replace(_IMAGES.train, images=images)
    changed = dataclasses.replace(_IMAGES, train=train)
    data.DATASETS["synthetic"] = lambda: changed

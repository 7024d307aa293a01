import dataclasses
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .. import models
from ..config import TrainConfig
from ..data import Dataset
from ..errors import UsageError
from ..parallel import find_devices
from ..storage import Run, explain_no_network, locate_run
from ..training import Model, TrainState
from ._array_file import CheckpointError, read_arrays, reporting, write_arrays
from ._named_arrays import (
    Leaf,
    named_arrays,
    named_leaves,
    replace_arrays,
    replace_leaves,
)

# What a file holds, by its header. A network's arrays have the names that it gives
# them; with all that training needs they begin with `_MODEL`.
_NETWORK, _TRAINING = "network", "training"


_MODEL = "model."


# What the steps move, where the network is its moving average.
_RAW = "raw."


# Of what a folder can hold, the first that it does.
_FILES = "model.safetensors", "last.safetensors"


# What a header has to say, and of which type.
_HEADER = {
    "holds": str,
    "config": dict,
    "classes": list,
    "data": dict,
    "step": int,
    "about": dict,
    "environment": dict,
}
_DATA = {"name": str, "synthetic": bool, "sha256": str}


_ENVIRONMENT = {"versions": dict, "devices": dict, "flags": dict}


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A network read from a file, and what the file says about it.

    - `model`, `state`: as `models.create` returns them, in training mode;
        `eqx.nn.inference_mode` and `predict` take them from there.
    - `config`: of the run that trained it.
    - `classes`: the names of its outputs.
    - `header`: everything that the file says, `step` and `data` among it.
    """

    model: Model
    state: eqx.nn.State
    config: TrainConfig
    classes: tuple[str, ...]
    header: dict[str, Any]


def save_checkpoint(
    path: str | os.PathLike[str],
    train_state: TrainState,
    config: TrainConfig,
    dataset: Dataset,
    environment: dict[str, Any] | None = None,
    *,
    about: Mapping[str, Any] | None = None,
):
    """Write all that training needs to go on, whole or not at all.

    **Arguments:**

    - `path`: replaced if it exists.
    - `train_state`: what to save.
    - `config`, `dataset`: what it is trained by; the header describes them.
    - `environment`: likewise, where it is trained.
    - `about`: likewise, what else was said of it.

    **Raises:**

    `RunError` with the path and the reason, such as a full disk.
    """
    header = network_header(config, dataset, int(train_state.step), environment, about)
    arrays = _leaves(train_state)
    write_arrays(Path(path), arrays, {"holds": _TRAINING, **header})


def load_checkpoint(
    path: str | os.PathLike[str], like: TrainState
) -> tuple[TrainState, dict[str, Any]]:
    """Read what `save_checkpoint` wrote.

    **Arguments:**

    - `path`: the file.
    - `like`: a state of the same model and optimiser, such as `initialise` makes.

    **Returns:**

    The saved state, and the header of the file.

    **Raises:**

    `CheckpointError` when the file is damaged, belongs to another model or has
    diverged, and `UsageError` when there is none.
    """
    path = Path(path)
    file = read_arrays(path)
    _check_header(path, file.header)
    if file.header["holds"] != _TRAINING:
        raise CheckpointError(
            f"{path} holds a network alone, with which training cannot go on"
        )
    arrays = file.read(_leaves(like))
    model, state = replace_arrays(like.model, like.state, _without_prefix(arrays))
    _check_finite(path, model, state)
    rest = replace_leaves(_rest(like), arrays)
    raw = like.raw
    if raw is not None:
        raw = replace_arrays(*raw, _without_prefix(arrays, _RAW))
        _check_finite(path, *raw)
    return TrainState(model=model, state=state, raw=raw, **rest), file.header


def save_model(
    path: str | os.PathLike[str],
    train_state: TrainState,
    config: TrainConfig,
    dataset: Dataset,
    environment: dict[str, Any] | None = None,
    *,
    about: Mapping[str, Any] | None = None,
):
    """Write a network and its state alone; the arguments are `save_checkpoint`'s.

    Its tensors have the names of `named_arrays`.

    **Arguments:**

    - `path`: replaced if it exists.
    - `train_state`: whose network is saved.
    - `config`, `dataset`, `environment`, `about`: as for `save_checkpoint`.

    **Raises:**

    `RunError` with the path and the reason, such as a full disk.
    """
    header = network_header(config, dataset, int(train_state.step), environment, about)
    write_network(path, train_state.model, train_state.state, header)


def write_network(
    path: str | os.PathLike[str],
    model: Model,
    state: eqx.nn.State,
    header: Mapping[str, Any],
):
    """Write a network as `save_model` does, under the header of another file.

    **Arguments:**

    - `path`: replaced if it exists.
    - `model`, `state`: the network.
    - `header`: of a `LoadedModel`.

    **Raises:**

    `RunError` with the path and the reason, such as a full disk.
    """
    arrays = named_arrays(model, state)
    write_arrays(Path(path), arrays, {**header, "holds": _NETWORK})


def load_model(
    path: str | os.PathLike[str] | Run,
    like: tuple[Model, eqx.nn.State] | None = None,
) -> LoadedModel:
    """Read a trained network.

    **Arguments:**

    - `path`: a run or its folder, of which `model.safetensors` is taken, or
        `last.safetensors` where training is not done; or such a file; or a run on the
        hub, as `locate_run` takes it.
    - `like`: a model and state of the same kind, for one that has no name in
        `models`.

    **Returns:**

    The network and what the file says about it.

    **Raises:**

    `CheckpointError` when the file is damaged, belongs to another model or has
    diverged, and `UsageError` when there is none.
    """
    # Before a file is blamed for what does not start.
    find_devices()
    path = path.path if isinstance(path, Run) else locate_run(path)
    if path.is_dir():
        found = [path / name for name in _FILES if (path / name).exists()]
        if not found:
            raise UsageError(explain_no_network(path))
        path = found[0]
    file = read_arrays(path)
    config = _check_header(path, file.header)
    classes = tuple(file.header["classes"])
    if like is None and config.has_own_arch:
        raise UsageError(
            f"{path} holds a {config.arch}, which no name in `eqcifar archs` makes: in "
            "Python, make such a (model, state) and give it as `like` to "
            "eqcifar.runs.load_model, open_network or export_model"
        )
    with reporting(path):
        variant = tuple(config.variant.items())
        model, state = like or _shapes(config.arch, len(classes), variant)
    prefix = _MODEL if file.header["holds"] == _TRAINING else ""
    arrays = file.read(_model_leaves(model, state, prefix), part=prefix)
    model, state = replace_arrays(model, state, _without_prefix(arrays, prefix))
    _check_finite(path, model, state)
    return LoadedModel(model, state, config, classes, file.header)


# Networks that are read one after another are then of one kind to `jax.jit`, too.
@lru_cache(maxsize=16)
def _shapes(
    arch: str, classes: int, variant: tuple[tuple[str, Any], ...]
) -> tuple[Model, eqx.nn.State]:
    """A network by name, of which shapes are all that is needed."""
    return eqx.filter_eval_shape(
        models.create, arch, classes, **dict(variant), key=jax.random.key(0)
    )


def _leaves(train_state: TrainState) -> dict[str, Leaf]:
    # The network comes first in a file, so that it is read without the rest.
    leaves = _model_leaves(train_state.model, train_state.state)
    leaves |= named_leaves(_rest(train_state))
    if train_state.raw is not None:
        leaves |= _model_leaves(*train_state.raw, prefix=_RAW)
    return leaves


def _model_leaves(
    model: Model, state: eqx.nn.State, prefix: str = _MODEL
) -> dict[str, Leaf]:
    return {prefix + name: leaf for name, leaf in named_arrays(model, state).items()}


def _without_prefix(
    arrays: dict[str, jax.Array], prefix: str = _MODEL
) -> dict[str, Leaf]:
    return {
        name.removeprefix(prefix): leaf
        for name, leaf in arrays.items()
        if name.startswith(prefix)
    }


def _rest(train_state: TrainState) -> dict[str, PyTree]:
    return {
        "opt_state": train_state.opt_state,
        "step": train_state.step,
        "totals": train_state.totals,
    }


def network_header(
    config: TrainConfig,
    dataset: Dataset,
    step: int,
    environment: dict[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What a file says of its network.

    **Arguments:**

    - `step`: of the optimiser.
    - `config`, `dataset`, `environment`, `about`: as for `save_checkpoint`.

    **Returns:**

    The header, as `write_network` takes it.
    """
    return {
        "classes": list(dataset.classes),
        "normalisation": {"mean": list(config.mean), "std": list(config.std)},
        "step": step,
        "data": {
            "name": dataset.name,
            "synthetic": dataset.synthetic,
            "sha256": dataset.fingerprint,
        },
        "config": config.to_dict(),
        "about": dict(about or {}),
        "environment": environment or {},
    }


def _check_header(path: Path, header: Mapping[str, Any]) -> TrainConfig:
    """The configuration in a header, all of which can be relied on from here."""
    with reporting(path):
        _check_types(header, _HEADER)
        _check_types(header["data"], _DATA)
        sections = {name: {} for name in _ENVIRONMENT} | header["environment"]
        _check_types(sections, _ENVIRONMENT, "environment: ")
        if header["holds"] not in (_NETWORK, _TRAINING):
            raise UsageError(f"holds = {header['holds']!r} is neither of those known")
        if header["step"] < 0:
            raise UsageError(f"step = {header['step']}: must be 0 or greater")
        classes = header["classes"]
        if not classes or not all(isinstance(name, str) for name in classes):
            raise UsageError("classes must be texts, one at least")
        if not all(
            isinstance(part, bool | int | float | str)
            for part in header["about"].values()
        ):
            raise UsageError("about must be numbers and texts")
        return TrainConfig.from_dict(header["config"])


def _check_types(values: Mapping[str, Any], types: Mapping[str, type], where: str = ""):
    for name, kind in types.items():
        value = values.get(name)
        if type(value) is not kind:
            raise UsageError(f"{where}{name} = {value!r:.40} is no {kind.__name__}")


def _check_finite(path: Path, model: Model, state: eqx.nn.State):
    for name, array in named_arrays(model, state).items():
        is_number = jnp.issubdtype(array.dtype, jnp.inexact)
        # By NumPy, which compiles nothing.
        if is_number and not np.isfinite(np.asarray(array)).all():
            raise CheckpointError(
                f"{path} has diverged: {name} is not finite; train again with a lower "
                "learning rate"
            )

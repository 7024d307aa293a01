import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PyTree

from .. import models
from ..config import TrainConfig
from ..data import Dataset
from ..errors import UsageError
from ..parallel import find_devices
from ..storage import Run, explain_no_network
from ..training import Model, TrainState
from ._checkpoint import open_checkpoint, write_checkpoint
from ._leaves import Leaf, named_arrays, named_leaves, with_arrays, with_leaves
from ._safetensors import open_safetensors

_MODEL = "model."


# What the steps move, where the network is its moving average.
_RAW = "raw."


# Of what a folder can hold, the first that it does.
_FILES = "model.eqx", "last.eqx", "model.safetensors"


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
    header = _header(config, dataset, int(train_state.step), environment, about)
    write_checkpoint(Path(path), _leaves(train_state), header)


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

    `CheckpointError` when the file is damaged or belongs to another model, and
    `UsageError` when there is none.
    """
    with open_checkpoint(Path(path)) as file:
        arrays = file.read(_leaves(like))
        header = file.header
    model, state = with_arrays(like.model, like.state, _without_prefix(arrays))
    rest = with_leaves(_rest(like), arrays)
    raw = like.raw
    if raw is not None:
        raw = with_arrays(*raw, _without_prefix(arrays, _RAW))
    return TrainState(model=model, state=state, raw=raw, **rest), header


def save_model(
    path: str | os.PathLike[str],
    train_state: TrainState,
    config: TrainConfig,
    dataset: Dataset,
    environment: dict[str, Any] | None = None,
    *,
    about: Mapping[str, Any] | None = None,
):
    """Write a network and its state alone; the arguments are `save_checkpoint`'s."""
    arrays = _model_leaves(train_state.model, train_state.state)
    header = _header(config, dataset, int(train_state.step), environment, about)
    write_checkpoint(Path(path), arrays, header)


def load_model(
    path: str | os.PathLike[str] | Run,
    like: tuple[Model, eqx.nn.State] | None = None,
) -> LoadedModel:
    """Read a trained network.

    **Arguments:**

    - `path`: a run or its folder, of which `model.eqx` is taken, or `last.eqx` where
        training is not done; or such a file, or what `export` wrote.
    - `like`: a model and state of the same kind, for one that has no name in
        `models`.

    **Returns:**

    The network and what the file says about it.

    **Raises:**

    `CheckpointError` when the file is damaged or belongs to another model, and
    `UsageError` when there is none.
    """
    # Before a file is blamed for what does not start.
    find_devices()
    path = path.path if isinstance(path, Run) else Path(path)
    if path.is_dir():
        found = [path / name for name in _FILES if (path / name).exists()]
        if not found:
            raise UsageError(explain_no_network(path))
        path = found[0]
    opening = open_safetensors if path.suffix == ".safetensors" else open_checkpoint
    with opening(path) as file:
        header = file.header
        config, classes = TrainConfig.from_dict(header["config"]), header["classes"]
        if like is None and config.has_own_arch:
            raise UsageError(
                f"{path} holds a {config.arch}, which no name in `eqcifar archs` "
                "makes: in Python, make such a (model, state) and give it as `like` to "
                "eqcifar.runs.load_model, open_network or export_model"
            )
        if like is None:
            # Shapes are all that is needed of it.
            model, state = eqx.filter_eval_shape(
                models.create,
                config.arch,
                len(classes),
                width=config.width,
                dropout=config.dropout,
                key=jax.random.key(0),
            )
        else:
            model, state = like
        arrays = file.read(_model_leaves(model, state), part=_MODEL)
    model, state = with_arrays(model, state, _without_prefix(arrays))
    return LoadedModel(model, state, config, tuple(classes), header)


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


def _header(
    config: TrainConfig,
    dataset: Dataset,
    step: int,
    environment: dict[str, Any] | None,
    about: Mapping[str, Any] | None,
) -> dict[str, Any]:
    return {
        "architecture": {
            "name": config.arch,
            "num_classes": len(dataset.classes),
            "width": config.width,
            "dropout": config.dropout,
        },
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

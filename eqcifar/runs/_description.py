"""What `config.json` says of a run, and whether two runs are the same."""

import dataclasses
import hashlib
import math
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import optax

from .. import __version__, data, models
from ..config import DataConfig, TrainConfig
from ..data import Dataset
from ..errors import EqcifarError, UsageError
from ..fields import DEFAULTS
from ..losses import AnyLoss, get_loss
from ..storage import COLUMNS, FORMAT, Run
from ..training import AnyOptimiser, Model, Schedule
from ._array_file import difference, table
from ._named_arrays import named_arrays
from ._part_name import part_name


def describe(
    config: TrainConfig,
    dataset: Dataset,
    model: Model,
    state: eqx.nn.State,
    *,
    about: Mapping[str, Any] | None = None,
    in_python: bool = False,
) -> dict[str, Any]:
    """What decides the numbers of a run, as `config.json` holds it.

    **Arguments:**

    - `config`: the recipe.
    - `dataset`: the data, of which name, size and SHA-256 are kept.
    - `model`, `state`: the network, of which class and table of arrays are kept, and
        a SHA-256 where `config.init` is a file.
    - `about`: what else tells the run from others, by name.
    - `in_python`: whether no command line makes the run.

    **Returns:**

    JSON values.

    **Raises:**

    `UsageError` for an `about` that cannot be a column of a table.
    """
    about = dict(about or {})
    for name, value in about.items():
        _check_own(name, value)
    examples = {name: len(split) for name, split in dataset.splits.items()}
    arrays = named_arrays(model, state)
    start = {}
    if config.starts_from_file and not in_python:
        start = {"init": {"sha256": _digest(arrays)}}
    return {
        "format": FORMAT,
        "eqcifar": __version__,
        "synthetic": dataset.synthetic,
        "in_python": in_python,
        "about": about,
        "classes": list(dataset.classes),
        "data": {
            "name": dataset.name,
            "sha256": dataset.fingerprint,
            "examples": examples,
        },
        "config": config.to_dict(),
        "model": {"class": class_name(model), "arrays": table(arrays)},
        **start,
    }


def _digest(arrays: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.shape} {array.dtype}".encode())
        digest.update(np.asarray(array).tobytes())
    return digest.hexdigest()


def check_same(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]):
    """Refuse what is of another recipe, other data or another network.

    **Arguments:**

    - `path`: where it was found.
    - `found`: what it says of itself: all of `describe`, or as much as it has.
    - `wanted`: of what it should be, from `describe`.

    **Raises:**

    `UsageError` with what differs.
    """
    config = TrainConfig.from_dict(wanted["config"])
    changed = config.differing(found.get("config", {}))
    if found.get("about", {}) != wanted["about"]:
        changed.append(f"about {found.get('about')} there, {wanted['about']} here")
    if changed:
        raise UsageError(
            f"{path} is of another configuration ({'; '.join(changed)}): train into "
            "another folder, or remove this one"
        )
    check_data(path, found, wanted["data"]["sha256"], wanted["data"]["name"])
    if "init" in found and found["init"] != wanted.get("init"):
        raise UsageError(
            f"{path} began from other weights than {config.init} has now: bring them "
            "back, or remove this folder to start again"
        )
    there, here = found.get("model", {}), wanted["model"]
    if not there:
        return
    problem = difference(there["arrays"], here["arrays"])
    if there["class"] != here["class"]:
        problem = f"a {there['class']} there, a {here['class']} here"
    if problem:
        raise UsageError(
            f"{path} is of another network: {problem}; train into another folder, or "
            "remove this one"
        )


def check_data(path: Path, found: Mapping[str, Any], sha256: str, name: str):
    """Refuse what was trained on other images or labels; the arguments are as above."""
    if found.get("data", {}).get("sha256") != sha256:
        raise UsageError(
            f"the data of {name!r} is not what {path} was trained on: bring it back, "
            "train into another folder, or remove this one to start again"
        )


class FolderCheck:
    """Says of many runs whether their folders of images have changed since.

    What the hub holds, and what is procedural, goes by its name, and a folder may be
    gone. Each folder is read once.
    """

    def __init__(self):
        """It knows no folder yet."""
        self._sha256: dict[Hashable, str] = {}

    def __call__(self, run: Run, config: TrainConfig) -> str:
        """Why a run that is done is not its configuration's any more, or nothing.

        **Arguments:**

        - `run`: that is done.
        - `config`: its configuration.

        **Returns:**

        A line that tells what to do; empty where the images are the same.
        """
        try:
            self.check(run, config)
        except EqcifarError as error:
            return str(error)
        return ""

    def check(self, run: Run, config: TrainConfig):
        """Refuse a run whose folder of images has changed.

        **Arguments:**

        - `run`, `config`: as of a call.

        **Raises:**

        `UsageError` as `check_data`, and what `eqcifar.data.load` raises.
        """
        folder = Path(data.locate(config.dataset))
        if not (folder.is_absolute() and folder.is_dir()):
            return
        key = folder, *_choices(config).items()
        if key not in self._sha256:
            self._sha256[key] = load_data(config).fingerprint
        check_data(run.path, run.description(), self._sha256[key], config.dataset)


def load_data(config: DataConfig) -> Dataset:
    """The data that a configuration names.

    **Arguments:**

    - `config`: of a run.

    **Returns:**

    The splits that the configuration asks for.

    **Raises:**

    `UsageError` and `RunError` as `eqcifar.data.load`.
    """
    return data.load(config.dataset, **_choices(config))


def _choices(config: DataConfig) -> dict[str, Any]:
    share, over, seed = config.drawn_labels
    return {
        "val_size": config.val_size,
        "limit_train": config.limit_train,
        "limit_test": config.limit_test,
        "subset": config.subset,
        "label_noise": share,
        "label_noise_over": over,
        "label_seed": seed,
    }


def data_of(path: Path, config: DataConfig) -> Dataset:
    """The data that a network was trained on, or what has its name now.

    **Arguments:**

    - `path`: of the network, for the error.
    - `config`: of its run.

    **Returns:**

    The splits that the configuration asks for.

    **Raises:**

    `UsageError` and `RunError` as `eqcifar.data.load`, with what to do for data that
    only Python has.
    """
    try:
        return load_data(config)
    except UsageError as error:
        raise UsageError(
            f"the data of {path} cannot be had: {error}; data of one's own is given in "
            "Python, to eqcifar.measurements.open_network or eqcifar.training.predict"
        ) from error


def named_config(
    config: TrainConfig,
    dataset: Dataset,
    model: Model,
    state: eqx.nn.State,
    loss: AnyLoss | None = None,
    optimiser: AnyOptimiser | None = None,
    schedule: Schedule | None = None,
) -> TrainConfig:
    """The recipe under the names of what is trained by it.

    **Arguments:**

    - `config`: the recipe.
    - `dataset`, `model`, `state`: what is trained by it.
    - `loss`: its loss, if `config` does not name it.

    **Returns:**

    A configuration whose `dataset` is the data's name, whose `arch` is the model's
    class unless `eqcifar.models.create` makes such a model of the configuration, and
    whose `loss`, `optimiser` and `schedule` are the names of what is given.
    """
    named = _is_created(config, len(dataset.classes), model, state)
    return dataclasses.replace(
        config,
        arch=config.arch if named else class_name(model),
        dataset=dataset.name,
        loss=config.loss if loss is None else get_loss(loss).name,
        optimiser=config.optimiser if optimiser is None else part_name(optimiser),
        schedule=_schedule_name(config, optimiser, schedule),
    )


def _schedule_name(
    config: TrainConfig, optimiser: AnyOptimiser | None, schedule: Schedule | None
) -> str:
    if schedule is not None:
        return part_name(schedule)
    # Its learning rate is its own.
    if isinstance(optimiser, optax.GradientTransformation):
        return part_name(optimiser)
    return config.schedule


def class_name(model: Model) -> str:
    """The class of a model, by the module that one imports it from."""
    kind = type(model)
    module = [part for part in kind.__module__.split(".") if part != "builtins"]
    public = [part for part in module if not part.startswith("_")] or module
    return ".".join([*public, kind.__qualname__])


def _is_created(
    config: TrainConfig, classes: int, model: Model, state: eqx.nn.State
) -> bool:
    try:
        created = eqx.filter_eval_shape(
            models.create,
            config.arch,
            classes,
            **config.variant,
            key=jax.random.key(0),
        )
    except UsageError:
        return False
    leaves, structure = jax.tree.flatten(created)
    own, own_structure = jax.tree.flatten((model, state))
    # The structure has the static fields, such as activation functions, too.
    return structure == own_structure and all(map(_are_alike, leaves, own))


def _are_alike(created: Any, own: Any) -> bool:
    if isinstance(created, jax.ShapeDtypeStruct):
        here = getattr(own, "shape", None), getattr(own, "dtype", None)
        return here == (created.shape, created.dtype)
    return created is own or (type(created) is type(own) and created == own)


def _check_own(name: str, value: Any):
    if not re.fullmatch(r"[A-Za-z]\w*", name):
        raise UsageError(f"about: {name!r} is no name of letters, digits and _")
    if name in DEFAULTS or name in COLUMNS or name == "data":
        raise UsageError(f"about: {name!r} means something already: take another name")
    if type(value) not in (bool, int, float, str) or (
        type(value) is float and not math.isfinite(value)
    ):
        raise UsageError(
            f"about: {name} = {value!r} must be a finite number, a text, true or false"
        )

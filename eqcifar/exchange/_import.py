import dataclasses
import hashlib
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import safetensors

from .. import models
from ..config import ImportOptions, TrainConfig, read_values
from ..data import Dataset
from ..errors import UsageError
from ..extras import require
from ..models import Model
from ..parallel import find_devices
from ..runs import (
    RunLock,
    describe,
    environment,
    load_data,
    named_arrays,
    network_header,
    replace_arrays,
    write_network,
)
from ..storage import Run, append_row, run_path
from ..training import evaluate, predict
from ._pytorch_names import Match, compare_shapes, match_all

_COUNTERS = "num_batches_tracked"
_SHORTCUTS = "padding", "centred", "projection"


@dataclasses.dataclass(frozen=True, eq=False)
class Foreign:
    """A PyTorch file beside the network here that it is to be.

    - `arrays`: of the file, by the names there.
    - `model`, `state`: of shapes.
    - `match`: which array is which.
    - `counters`: what BatchNorm's `num_batches_tracked` are.
    """

    path: Path
    arrays: Mapping[str, np.ndarray]
    model: Model
    state: eqx.nn.State
    match: Match
    counters: Mapping[str, np.ndarray]


def open_foreign(
    path: str | os.PathLike[str],
    options: ImportOptions,
    classes: int,
    names: str | os.PathLike[str] | None = None,
) -> Foreign:
    """Read a PyTorch state dict, and find out which array is which.

    **Arguments:**

    - `path`: a file of safetensors, or of `torch.save`, in which the state dict may be
        a value of a dictionary; such a one is read by `weights_only=True`, so nothing
        in it is run.
    - `options`: what the network is.
    - `classes`: the number of its outputs.
    - `names`: a file of JSON or TOML with the name there of each array here, where no
        line of `NAMINGS` fits.

    **Raises:**

    `UsageError` for a file that cannot be read, and when names or shapes do not match,
    with those.
    """
    path = Path(path)
    find_devices()
    model, state = _shapes(options, classes)
    given = None if names is None else _read_map(names)
    networks = _read(path)
    found = [_foreign(path, part, model, state, given) for part in networks.values()]
    fitting = [each for each in found if not each.match.problems]
    if len(fitting) > 1:
        raise UsageError(
            f"{path} holds several such networks, {_join(networks, found, fitting)}: "
            "save the one that is meant alone"
        )
    if fitting:
        return fitting[0]
    best = min(found, key=lambda each: len(each.match.problems))
    hint = "" if given else _hint(path, networks, options, classes)
    raise UsageError(
        f"{path} is not a {options.arch} of {classes} classes under the names of "
        f"{best.match.source}: {best.match.explain()}{hint}"
    )


def import_model(
    path: str | os.PathLike[str],
    options: ImportOptions,
    root: str | os.PathLike[str] = "results",
    *,
    classes: Sequence[str] = (),
    origin: str = "",
    names: str | os.PathLike[str] | None = None,
    measure: bool = True,
    warn: Callable[[str], None] = warnings.warn,
) -> Run:
    """Make a run of a network that PyTorch trained, for everything that takes a run.

    **Arguments:**

    - `path`, `names`: as for `open_foreign`.
    - `options`: what the network is, and what it was trained on.
    - `root`: the folder of all runs.
    - `classes`: the names of its outputs, in order, which must be the data's; for data
        without names of its own.
    - `origin`: where it is from, for tables and the model card; the file's name by
        default. Seeds of one kind have one origin.
    - `measure`: whether to take loss and accuracy on the test split, for the log.
    - `warn`: called with a line about arrays that are left out.

    **Returns:**

    A run that is done, after no epochs.

    **Raises:**

    `UsageError` as `open_foreign`, when the run is there already, and for classes that
    are not those of the data.
    """
    path = Path(path)
    config = options.config()
    about = {"origin": origin or path.name}
    run = Run(run_path(root, config, about))
    if (run.path / "config.json").exists():
        raise UsageError(
            f"{run.path} is there already: remove it, or give another --seed or "
            "--origin"
        )
    dataset = _named(load_data(config), classes)
    foreign = open_foreign(path, options, len(dataset.classes), names)
    if foreign.match.left_out:
        count, first = len(foreign.match.left_out), foreign.match.left_out[0]
        warn(f"{count} arrays of {path} beside the network are left out: {first} etc.")
    model, state = fill(foreign)
    what = describe(config, dataset, model, state, about=about)
    origins = {
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "naming": foreign.match.source,
    }
    row = {"epoch": 0, **(_measure(model, state, config, dataset) if measure else {})}
    env = environment(1)
    header = network_header(config, dataset, 0, env, about)
    header["imported"] = {**origins, "tensors": _tensors(foreign)}
    with RunLock(run, config) as lock:
        lock.describe({**what, "imported": origins}, env)
        write_network(run.path / "model.safetensors", model, state, header)
        append_row(run.path / "log.tsv", row)
        lock.report("done", 0, epochs=0)
    return run


def fill(foreign: Foreign) -> tuple[Model, eqx.nn.State]:
    """The network here with the arrays of the file.

    **Raises:**

    `UsageError` for arrays that are no finite numbers, or that would be rounded.
    """
    filled = {}
    for ours, like in named_arrays(foreign.model, foreign.state).items():
        theirs = foreign.match.names[ours]
        array = foreign.arrays[theirs]
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise UsageError(f"{theirs} in {foreign.path} is {array.dtype}: no weights")
        if array.dtype.itemsize > like.dtype.itemsize:
            raise UsageError(
                f"{theirs} in {foreign.path} is {array.dtype}, which {like.dtype} "
                "would round: set JAX_ENABLE_X64=1, or save it in single precision"
            )
        filled[ours] = jnp.asarray(array.astype(like.dtype))
        if not np.isfinite(filled[ours]).all():
            raise UsageError(f"{theirs} in {foreign.path} is not finite")
    return replace_arrays(foreign.model, foreign.state, filled)


def _shapes(options: ImportOptions, classes: int) -> tuple[Model, eqx.nn.State]:
    return eqx.filter_eval_shape(
        models.create,
        options.arch,
        classes,
        **options.config().variant,
        key=jax.random.key(0),
    )


def _measure(
    model: Model, state: eqx.nn.State, config: TrainConfig, dataset: Dataset
) -> dict[str, float]:
    logits = predict(model, state, dataset.test.images, config)
    found = evaluate(
        logits,
        dataset.test.labels,
        config.loss,
        label_smoothing=config.label_smoothing,
    )
    return {"loss_te": found.loss.value, "acc_te": found.accuracy.value}


def _named(dataset: Dataset, classes: Sequence[str]) -> Dataset:
    if not classes or tuple(classes) == dataset.classes:
        return dataset
    if len(classes) != len(dataset.classes) or set(classes) == set(dataset.classes):
        raise UsageError(
            f"the classes of {dataset.name} are {', '.join(dataset.classes)}, in this "
            "order, which labels are numbers of: a network of other ones cannot be "
            "measured on it"
        )
    return dataclasses.replace(dataset, classes=tuple(classes))


def _foreign(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    model: Model,
    state: eqx.nn.State,
    given: Mapping[str, str] | None,
) -> Foreign:
    counters = {k: x for k, x in arrays.items() if k.endswith(_COUNTERS)}
    arrays = {k: x for k, x in arrays.items() if k not in counters}
    found = {name: array.shape for name, array in arrays.items()}
    if given is None:
        matches = match_all(found, model, state)
        if len(matches) > 1 and not matches[1].problems:
            both = {tuple(match.names.values()) for match in matches[:2]}
            if len(both) > 1:
                raise UsageError(
                    f"{path} holds more than one such network: give its names by --map"
                )
        if not matches:
            raise UsageError(
                "no PyTorch names are known of such a network: give them by --map FILE"
            )
        match = matches[0]
    else:
        wanted = {k: x.shape for k, x in named_arrays(model, state).items()}
        match = compare_shapes(found, wanted, given, "the map")
    return Foreign(path, arrays, model, state, match, counters)


def _tensors(foreign: Foreign) -> list[list[Any]]:
    """All that a state dict of the same bits takes: name there, name or number here."""
    ours = {theirs: name for name, theirs in foreign.match.names.items()}
    every = {**foreign.arrays, **foreign.counters}
    return [
        [name, ours.get(name, 0 if array.size != 1 else int(array)), str(array.dtype)]
        for name, array in every.items()
        if name in ours or name in foreign.counters
    ]


def _hint(
    path: Path, networks: Mapping[str, Any], options: ImportOptions, classes: int
) -> str:
    for shortcut in _SHORTCUTS:
        try:
            other = _shapes(dataclasses.replace(options, shortcut=shortcut), classes)
            found = [_foreign(path, part, *other, None) for part in networks.values()]
        except UsageError:
            continue
        if any(not each.match.problems for each in found):
            return f" -- it fits with --shortcut {shortcut}"
    return (
        " -- give the right --arch, --width and --dataset, or the name of each array "
        "by --map FILE"
    )


def _join(networks: Mapping[str, Any], found: list, fitting: list) -> str:
    pairs = zip(networks, found, strict=True)
    return ", ".join(repr(name) for name, each in pairs if each in fitting)


def _read_map(path: str | os.PathLike[str]) -> dict[str, str]:
    names = read_values(path)
    for ours, theirs in names.items():
        if not isinstance(theirs, str):
            raise UsageError(f"{path}: {ours} = {theirs!r:.40} must be a text")
    return names


def _read(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """The state dicts in a file, by the key that each has there."""
    if not path.is_file():
        raise UsageError(f"no file {path}")
    if path.suffix == ".safetensors":
        return {"": _read_safetensors(path)}
    torch = require("torch", "torch", f"reading {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).splitlines() or [type(error).__name__]
        raise UsageError(f"{path} is no file of PyTorch: {reason[0]}") from error
    except Exception as error:  # PyTorch's refusal, of a class that it does not name
        raise UsageError(
            f"{path} holds more than tensors, which would have to be run as code: in "
            "PyTorch, save it as safetensors.torch.save_file(net.state_dict(), ...)"
        ) from error
    networks = dict(_state_dicts(content, torch.Tensor))
    if not networks:
        raise UsageError(f"{path} holds no state dict, that is tensors by name")
    return {key: _to_numpy(part, torch) for key, part in networks.items()}


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it has no iterator
    except (safetensors.SafetensorError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path} is damaged, or is no file of safetensors: {error}"
        ) from error


def _state_dicts(content: Any, tensor: type, key: str = ""):
    if not isinstance(content, Mapping) or not content:
        return
    if all(isinstance(x, tensor) for x in content.values()):
        if all(isinstance(name, str) for name in content):
            yield key, content
        return
    for name, part in content.items():
        yield from _state_dicts(part, tensor, f"{key}.{name}".strip("."))


def _to_numpy(tensors: Mapping[str, Any], torch: Any) -> dict[str, np.ndarray]:
    def convert(tensor: Any) -> np.ndarray:
        tensor = tensor.detach().contiguous()
        if tensor.dtype == torch.bfloat16:
            return tensor.view(torch.int16).numpy().view(jnp.bfloat16)
        return tensor.numpy()

    return {name: convert(tensor) for name, tensor in tensors.items()}

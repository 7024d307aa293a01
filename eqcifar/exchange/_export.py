import os
from pathlib import Path
from typing import Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from ..errors import UsageError
from ..runs import LoadedModel, load_model, named_arrays, write_network
from ..storage import Run, cannot_write, replacing
from ..training import Model
from ._model_card import model_card
from ._pytorch_names import NAMINGS, names_in


def export_model(
    source: str | os.PathLike[str] | Run,
    folder: str | os.PathLike[str],
    like: tuple[Model, eqx.nn.State] | None = None,
    *,
    to: Literal["eqcifar", "pytorch"] = "eqcifar",
) -> Path:
    """Write a trained network for others: `model.safetensors` and a model card.

    To "eqcifar", the file is that of a run, and alone enough for `load_model`. Its
    tensors have the names of `named_arrays`; configuration, classes, normalisation,
    data and environment are in its metadata. To "pytorch", it is a state dict, see
    `state_dict`. The card, `README.md`, tells a reader what it is, and how to load it.

    **Arguments:**

    - `source`, `like`: as for `load_model`.
    - `folder`: to create; it may exist if it is empty or holds an earlier export.

    **Returns:**

    The path of `model.safetensors`.

    **Raises:**

    `UsageError` where `folder` holds something else, `RunError` when it cannot be
    written, and what `load_model` raises.
    """
    folder = Path(folder)
    path = folder / "model.safetensors"
    if _holds_something_else(folder, path.name):
        raise UsageError(f"{folder} exists already: give a new folder")
    loaded = load_model(source, like)
    names = pytorch_names(loaded) if to == "pytorch" else None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    if names is None:
        write_network(path, loaded.model, loaded.state, loaded.header)
    else:
        content = safetensors.numpy.save(state_dict(loaded), {"format": "pt"})
        with replacing(path) as file:
            file.write(content)
    source = source.path if isinstance(source, Run) else Path(source)
    with replacing(folder / "README.md") as file:
        file.write(model_card(loaded, Run(source), names).encode())
    return path


def pytorch_names(loaded: LoadedModel) -> dict[str, str]:
    """The names of a network's arrays in PyTorch.

    **Returns:**

    Those of the file that it was imported from, or those of the first line of
    `NAMINGS` that knows such networks; by the names of `named_arrays`.

    **Raises:**

    `UsageError` when there is none.
    """
    imported = loaded.header.get("imported")
    if imported:
        arrays, tensors = named_arrays(loaded.model, loaded.state), imported["tensors"]
        return {ours: name for name, ours, _ in tensors if ours in arrays}
    for naming in NAMINGS.values():
        if names := names_in(naming, loaded.model, loaded.state):
            return names
    raise UsageError(
        f"no PyTorch names are known of a {loaded.config.arch}: export it to eqcifar, "
        "whose tensors PyTorch reads under other names"
    )


def state_dict(loaded: LoadedModel) -> dict[str, np.ndarray]:
    """A network as a state dict of PyTorch.

    **Arguments:**

    - `loaded`: the network.

    **Returns:**

    Arrays by the names of `pytorch_names`. Of an imported network they are those of its
    file to the bit, in names, order, dtypes and the counters of BatchNorm.
    """
    arrays = named_arrays(loaded.model, loaded.state)
    imported = loaded.header.get("imported")
    if not imported:
        names = pytorch_names(loaded)
        return {names[ours]: np.asarray(x) for ours, x in arrays.items()}
    return {
        name: np.asarray(arrays.get(ours, ours)).astype(jnp.dtype(dtype))
        for name, ours, dtype in imported["tensors"]
    }


def _holds_something_else(folder: Path, name: str) -> bool:
    if not folder.exists() or (folder / name).exists():
        return False
    return not folder.is_dir() or any(folder.iterdir())

import os
from pathlib import Path

import equinox as eqx

from ..errors import UsageError
from ..runs import load_model, write_network
from ..storage import Run, cannot_write, replacing
from ..training import Model
from ._model_card import model_card


def export_model(
    source: str | os.PathLike[str] | Run,
    folder: str | os.PathLike[str],
    like: tuple[Model, eqx.nn.State] | None = None,
) -> Path:
    """Write a trained network for others: `model.safetensors` and a model card.

    The file is that of a run, and alone enough for `load_model`. Its tensors have the
    names of `named_arrays`; configuration, classes, normalisation, data and environment
    are in its metadata. The card, `README.md`, tells a reader what it is.

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
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    write_network(path, loaded.model, loaded.state, loaded.header)
    source = source.path if isinstance(source, Run) else Path(source)
    with replacing(folder / "README.md") as file:
        file.write(model_card(loaded, Run(source)).encode())
    return path


def _holds_something_else(folder: Path, name: str) -> bool:
    if not folder.exists() or (folder / name).exists():
        return False
    return not folder.is_dir() or any(folder.iterdir())

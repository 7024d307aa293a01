import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..extras import require
from ..storage import replacing
from ._checkpoint import CheckpointError, compare, reporting, table
from ._leaves import Leaf

VERSION = 1


_KEY = "eqcifar"


def write_safetensors(
    path: Path, arrays: Mapping[str, Leaf], header: Mapping[str, Any]
):
    """Write arrays and a description of them as other libraries read them.

    The file's metadata has one key, `eqcifar`: JSON of the header, of `version`, and of
    `sha256`, a digest of everything else. (Of several keys, safetensors writes one or
    another first, and the same numbers would not be the same file.)

    **Arguments:**

    - `path`: replaced if it exists.
    - `arrays`: by name.
    - `header`: whatever else tells what they are, as JSON values.

    **Raises:**

    `UsageError` without the package safetensors, and `RunError` with the path and the
    reason, such as a full disk.
    """
    safetensors = require("safetensors.numpy", "export", "the format safetensors")
    # In row-major order, for only addresses are passed on.
    tensors = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    fields = {"version": VERSION, **header}
    metadata = json.dumps({"sha256": _digest(fields, tensors), **fields})
    content = safetensors.save(tensors, metadata={_KEY: metadata})
    with replacing(path) as file:
        file.write(content)


class Safetensors:
    """A file of safetensors that has been read and found undamaged."""

    def __init__(
        self, path: Path, tensors: dict[str, np.ndarray], header: dict[str, Any]
    ):
        self.path, self._tensors, self.header = path, tensors, header

    def read(self, like: Mapping[str, Leaf], part: str = "") -> dict[str, jax.Array]:
        """Take the arrays, as `Checkpoint.read` does.

        **Arguments:**

        - `like`: what must be there, by name.
        - `part`: what all these names begin with; in the file they do not.

        **Raises:**

        `CheckpointError` with the first array that differs, and both shapes.
        """
        names = {name.removeprefix(part): name for name in like}
        # The format has an order of its own, which means nothing.
        first = [name for name in names if name in self._tensors]
        found = {name: self._tensors[name] for name in (*first, *self._tensors)}
        wanted = {name: like[names[name]] for name in names}
        compare(self.path, table(found), table(wanted))
        return {names[name]: jnp.asarray(tensor) for name, tensor in found.items()}


@contextlib.contextmanager
def open_safetensors(path: Path) -> Iterator[Safetensors]:
    """Open a file that `write_safetensors` wrote; it is verified as a whole.

    **Raises:**

    `UsageError` when there is no such file, or without the package safetensors, and
    `CheckpointError` for everything else that can be wrong with one.
    """
    safetensors = require("safetensors", "export", f"reading {path}")
    with reporting(path):
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = (file.metadata() or {}).get(_KEY)
            # As other languages' readers do, it gives copies.
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        yield Safetensors(path, tensors, _header(path, metadata, tensors))


def _header(
    path: Path, metadata: str | None, tensors: dict[str, np.ndarray]
) -> dict[str, Any]:
    if metadata is None:
        raise CheckpointError(
            f"{path} does not say what network it holds: it was not written by "
            "`eqcifar export`, or has lost its metadata since"
        )
    fields = json.loads(metadata)
    sha256 = fields.pop("sha256")
    if fields.get("version") != VERSION:
        raise CheckpointError(
            f"{path} has version {fields.get('version')!r}; this eqcifar reads version "
            f"{VERSION}: use the eqcifar that wrote it, or a newer one"
        )
    if _digest(fields, tensors) != sha256:
        raise CheckpointError(
            f"{path} is damaged, or was changed: its SHA-256 is not the one it was "
            "written with; export the run again"
        )
    return fields


def _digest(fields: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> str:
    leaves = sorted(table(tensors))
    sha256 = hashlib.sha256(json.dumps([fields, leaves], sort_keys=True).encode())
    for name, _, _ in leaves:
        sha256.update(tensors[name].tobytes())
    return sha256.hexdigest()

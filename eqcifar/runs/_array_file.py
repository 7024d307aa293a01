"""The one format of files with arrays: safetensors that say what they hold."""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from ..errors import RunError, UsageError
from ..storage import replacing
from ._named_arrays import Leaf

FORMAT = 1


# Of several keys, safetensors writes one or another first, and the same numbers would
# not be the same file.
_KEY = "eqcifar"


# What every version of safetensors stores; of other arrays it is given the bytes.
_STORED = {
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "bfloat16", "float32", "float64"),
}


# In bytes, of what is parsed before anything is verified; ours have some thousands.
_LONGEST_HEADER = 2**24


Table = list[list[Any]]


class CheckpointError(RunError):
    """A file is not a checkpoint, is damaged, or belongs to another model."""


def write_arrays(path: Path, arrays: Mapping[str, Leaf], header: Mapping[str, Any]):
    """Write arrays and a description of them to a file of safetensors, or nothing.

    Any program that reads safetensors finds the arrays by name: numbers as they are,
    random keys as their `jax.random.key_data`, and dtypes that safetensors has not,
    such as complex128, as bytes. The metadata has one key, `eqcifar`: JSON of the
    header, of `format`, of the table `leaves` with name, dtype and shape of each array
    in order, and of `sha256`, a digest of all these and of the arrays. The same numbers
    are the same file.

    **Arguments:**

    - `path`: replaced if it exists, in one step.
    - `arrays`: by name.
    - `header`: whatever else tells what they are, as JSON values.

    **Raises:**

    `RunError` with the path and the reason, such as a full disk.
    """
    tensors = {name: _to_store(array) for name, array in arrays.items()}
    fields = {**header, "format": FORMAT, "leaves": table(arrays)}
    metadata = json.dumps({"sha256": _digest(fields, tensors), **fields})
    content = safetensors.numpy.save(tensors, metadata={_KEY: metadata})
    with replacing(path) as file:
        file.write(content)


class ArrayFile:
    """The arrays of a file that was read in full and found undamaged.

    - `header`: what the file says of them.
    """

    def __init__(
        self, path: Path, tensors: Mapping[str, np.ndarray], header: dict[str, Any]
    ):
        self.header = header
        self._path, self._tensors = path, tensors

    def read(self, like: Mapping[str, Leaf], part: str = "") -> dict[str, jax.Array]:
        """The arrays, on the device.

        **Arguments:**

        - `like`: what must be there, by name and in order.
        - `part`: take only the arrays whose names begin like this.

        **Returns:**

        Arrays by the names of `like`, with its dtypes and shapes.

        **Raises:**

        `CheckpointError` with the first array that differs, and both shapes.
        """
        with reporting(self._path):
            leaves = self.header["leaves"]
            found = [leaf for leaf in leaves if leaf[0].startswith(part)]
            compare(self._path, found, table(like))
            return {
                name: _from_stored(self._tensors[name], leaf)
                for name, leaf in like.items()
            }


def read_arrays(path: Path) -> ArrayFile:
    """Read a file that `write_arrays` wrote; all of it is verified by its digest.

    **Raises:**

    `UsageError` when there is no such file, and `CheckpointError` for everything else
    that can be wrong with one.
    """
    # Of a pipe, reading has no end.
    if not path.is_file():
        raise UsageError(f"no file {path}")
    with reporting(path):
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
        if header > _LONGEST_HEADER:
            error = ValueError(f"its header would have {header:,} bytes")
            raise CheckpointError(_explain(path, error))
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                metadata = (file.metadata() or {}).get(_KEY)
                # One at a time, so that no more than one is in memory twice.
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it has no iterator
        except safetensors.SafetensorError as error:
            raise CheckpointError(_explain(path, error)) from error
        return ArrayFile(path, tensors, _header(path, metadata, tensors))


def _explain(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        start = file.read(4)
    # An archive of `torch.save`, or what it wrote before PyTorch 1.6.
    if start == b"PK\x03\x04" or start[:1] == b"\x80":
        return (
            f"{path} is a file of PyTorch: `eqcifar import {path} --arch NAME` makes a "
            "run of the network in it"
        )
    return f"{path} is damaged, or is no file of safetensors: {error}"


@contextlib.contextmanager
def reporting(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong with a file's content into a `CheckpointError`."""
    try:
        yield
    except RunError:
        raise
    except Exception as error:
        # With a forged digest, other code meets the damage, and what it raises depends
        # on where that is.
        reason = str(error).splitlines() or [type(error).__name__]
        raise CheckpointError(f"cannot read {path}: {reason[0]}") from error


def _header(
    path: Path, metadata: str | None, tensors: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    if metadata is None:
        raise CheckpointError(
            f"{path} does not say what it holds: it was not written by eqcifar, or was "
            "damaged or saved by another program since; of a state dict of PyTorch, "
            f"`eqcifar import {path} --arch NAME` makes a run"
        )
    try:
        fields = json.loads(metadata)
        sha256 = fields.pop("sha256")
        is_whole = _digest(fields, tensors) == sha256
    except (
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
        AttributeError,
    ) as error:
        raise CheckpointError(f"{path} is damaged: its metadata is no JSON") from error
    # Before the digest, which another format may take otherwise.
    if fields.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has format {fields.get('format')!r}; this eqcifar reads format "
            f"{FORMAT}: use the eqcifar that wrote it, or a newer one"
        )
    if not is_whole:
        raise CheckpointError(
            f"{path} is damaged, or was changed: its SHA-256 is not the one it was "
            "written with; restore it from a copy, or delete it to start again"
        )
    leaves = fields.get("leaves")
    is_table = isinstance(leaves, list) and all(map(_is_leaf, leaves))
    if not is_table or sorted(name for name, _, _ in leaves) != sorted(tensors):
        raise CheckpointError(f"{path} has other arrays than its table says")
    return fields


def _is_leaf(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 3:
        return False
    name, dtype, shape = value
    return isinstance(name, str) and isinstance(dtype, str) and isinstance(shape, list)


def _to_store(array: Leaf | np.ndarray) -> np.ndarray:
    if isinstance(array, jax.Array) and _is_key(array):
        array = jax.random.key_data(array)
    # In row-major order, for only addresses are passed on.
    stored = np.asarray(array, order="C")
    return stored if stored.dtype.name in _STORED else _bytes(stored)


def _from_stored(stored: np.ndarray, like: Leaf) -> jax.Array:
    if _is_key(like):
        kind = jax.random.key_impl(jnp.empty((), like.dtype))
        array = jax.random.wrap_key_data(jnp.asarray(stored), impl=kind)
    elif like.dtype.name not in _STORED:
        array = jnp.asarray(stored.view(like.dtype).reshape(like.shape))
    else:
        array = jnp.asarray(stored)
    # The table has been compared with `like`, but not with what is stored.
    if (array.shape, array.dtype) != (like.shape, like.dtype):
        raise CheckpointError("it has other arrays than its table says")
    return array


def _is_key(array: Leaf) -> bool:
    return jnp.issubdtype(array.dtype, jax.dtypes.prng_key)


def _bytes(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(np.uint8)


def _digest(fields: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> str:
    stored = sorted(table(tensors))
    sha256 = hashlib.sha256(json.dumps([fields, stored], sort_keys=True).encode())
    for name, _, _ in stored:
        sha256.update(_bytes(tensors[name]).data)
    return sha256.hexdigest()


def table(arrays: Mapping[str, Leaf | np.ndarray]) -> Table:
    """Name, dtype and shape of each array, as JSON has it."""
    return [
        [name, str(array.dtype), list(array.shape)] for name, array in arrays.items()
    ]


def compare(path: Path, found: Table, wanted: Table):
    """Refuse a file whose arrays are not the model's, by the first that differs.

    **Arguments:**

    - `path`: of the file.
    - `found`, `wanted`: tables of its arrays, and of the model's.

    **Raises:**

    `CheckpointError` with the array, or with the variable that switches precision.
    """
    single = _in_single_precision(wanted)
    if found != wanted and _in_single_precision(found) == single:
        on = wanted != single
        raise CheckpointError(
            f"{path} was written with JAX_ENABLE_X64 {'off' if on else 'on'}, and here "
            f"it is {'on: unset it' if on else 'off: set JAX_ENABLE_X64=1'}"
        )
    if problem := difference(found, wanted):
        raise CheckpointError(f"{path} belongs to another model: {problem}")


def difference(found: Table, wanted: Table) -> str:
    """The first array of a file that is not the model's; empty if all are."""
    if found == wanted:
        return ""
    in_file, in_model = _by_name(found), _by_name(wanted)
    for name, what in in_model.items():
        if name not in in_file:
            return f"it lacks {name}, in the model {what}"
        if in_file[name] != what:
            return f"{name} is {in_file[name]} there, but {what} in the model"
    extra = [name for name in in_file if name not in in_model]
    if extra:
        return f"it has {extra[0]}, {in_file[extra[0]]}; the model has none"
    return "its arrays are in another order"


def _in_single_precision(table: Table) -> Table:
    return [[name, dtype.replace("64", "32"), shape] for name, dtype, shape in table]


def _by_name(table: Table) -> dict[str, str]:
    return {name: f"{dtype}{shape!s:.60}" for name, dtype, shape in table}

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import equinox as eqx
import jax
import numpy as np

from ..errors import RunError, UsageError
from ..storage import replacing
from ._leaves import Leaf

VERSION = 1


_FORMAT = "eqcifar checkpoint"


_LONGEST_HEADER = 16 * 2**20


# A file begins with its own digest, taken with zeros in the digest's place.
_NO_DIGEST = "0" * 64


_START = re.compile(rb'\{"sha256": "([0-9a-f]{64})", ')


Table = list[list[Any]]


class CheckpointError(RunError):
    """A file is not a checkpoint, is damaged, or belongs to another model."""


def write_checkpoint(path: Path, arrays: Mapping[str, Leaf], header: Mapping[str, Any]):
    """Write arrays and a description of them to one file, whole or not at all.

    The file is a line of JSON and then the arrays, in the order of the header's table
    `leaves` of names, dtypes and shapes, as `eqx.tree_serialise_leaves` writes them.
    The header's `sha256` is that of the whole file with zeros in its place.

    **Arguments:**

    - `path`: replaced if it exists.
    - `arrays`: by name.
    - `header`: whatever else tells what they are, as JSON values.

    **Raises:**

    `RunError` with the path and the reason, such as a full disk.
    """
    leaves = table(arrays)
    for name, dtype, _ in leaves:
        if dtype.startswith("key<"):
            raise CheckpointError(
                f"cannot write {path}: {name} is a random key; let the model keep "
                "`jax.random.key_data` of it"
            )
    fields = {"format": _FORMAT, "version": VERSION, **header, "leaves": leaves}
    line = json.dumps({"sha256": _NO_DIGEST, **fields}).encode() + b"\n"
    if len(line) > _LONGEST_HEADER:
        raise CheckpointError(f"cannot write {path}: the header is too long")
    with replacing(path) as file:
        hashing = _Hashing(file)
        hashing.write(line)
        eqx.tree_serialise_leaves(hashing, list(arrays.values()))
        file.seek(line.index(_NO_DIGEST.encode()))
        file.write(hashing.sha256.hexdigest().encode())


class Checkpoint:
    """An open checkpoint file, found undamaged."""

    def __init__(self, path: Path, file: BinaryIO, header: dict[str, Any]):
        self.path, self._file, self.header = path, file, header

    def read(self, like: Mapping[str, Leaf], part: str = "") -> dict[str, jax.Array]:
        """Read the arrays.

        **Arguments:**

        - `like`: what must be there, by name and in order.
        - `part`: read only the arrays whose names begin like this, the first ones in
            the file.

        **Raises:**

        `CheckpointError` with the first array that differs, and both shapes.
        """
        names = [name for name, _, _ in self.header["leaves"]]
        count = len([name for name in names if name.startswith(part)])
        compare(self.path, self.header["leaves"][:count], table(like))
        wanted = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in like.values()]
        arrays = eqx.tree_deserialise_leaves(self._file, wanted)
        if count == len(names) and self._file.read(1):
            raise CheckpointError(f"{self.path} has more than its table says")
        return dict(zip(like, arrays, strict=True))


@contextlib.contextmanager
def open_checkpoint(path: Path) -> Iterator[Checkpoint]:
    """Open a checkpoint; its digest is verified before anything in it is believed.

    **Raises:**

    `UsageError` when there is no such file, and `CheckpointError` for everything else
    that can be wrong with one, also while it is read.
    """
    with reporting(path), open(path, "rb") as file:
        yield Checkpoint(path, file, _read_header(path, file))


@contextlib.contextmanager
def reporting(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong with a file's content into a `CheckpointError`."""
    try:
        yield
    except FileNotFoundError as error:
        raise UsageError(f"no file {path}") from error
    except (RunError, UsageError):
        raise
    except Exception as error:
        # With a forged digest, NumPy and Equinox meet the damage; they unpickle
        # nothing, and what they raise depends on where it is.
        reason = str(error).splitlines() or [type(error).__name__]
        raise CheckpointError(f"cannot read {path}: {reason[0]}") from error


def _read_header(path: Path, file: BinaryIO) -> dict[str, Any]:
    line = file.readline(_LONGEST_HEADER)
    start = _START.match(line)
    if start is None or not line.endswith(b"\n"):
        raise CheckpointError(f"{path} is not an eqcifar checkpoint, or is damaged")
    sha256 = hashlib.sha256(line[: start.start(1)] + _NO_DIGEST.encode())
    sha256.update(line[start.end(1) :])
    while block := file.read(2**20):
        sha256.update(block)
    if sha256.hexdigest() != start[1].decode():
        raise CheckpointError(
            f"{path} is damaged: its SHA-256 is not the one it was written with; "
            "restore it from a copy, or delete it to start again"
        )
    file.seek(len(line))
    header = json.loads(line)
    if header.get("format") != _FORMAT or header.get("version") != VERSION:
        raise CheckpointError(
            f"{path} has format {header.get('format')!r}, version "
            f"{header.get('version')!r}; this eqcifar reads {_FORMAT!r}, version "
            f"{VERSION}: use the eqcifar that wrote it, or a newer one"
        )
    return header


class _Hashing:
    """Writes to a file, and takes the digest on the way."""

    def __init__(self, file: BinaryIO):
        self._file, self.sha256 = file, hashlib.sha256()

    def write(self, data: bytes, /) -> int:
        self.sha256.update(data)
        return self._file.write(data)


def table(arrays: Mapping[str, Leaf | np.ndarray]) -> Table:
    """Name, dtype and shape of each array."""
    return [
        [name, str(array.dtype), list(array.shape)] for name, array in arrays.items()
    ]


def compare(path: Path, found: Table, wanted: Table):
    """Refuse a file whose arrays are not the model's, by the first that differs."""
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
    return {name: f"{dtype}{shape}" for name, dtype, shape in table}

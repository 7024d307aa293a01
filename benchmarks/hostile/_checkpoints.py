"""Checkpoints: damaged by chance, and forged with a right checksum."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy

from eqcifar import models, runs
from eqcifar.config import TrainConfig
from eqcifar.data import Dataset, Split
from eqcifar.runs import named_arrays
from eqcifar.runs._array_file import _digest
from eqcifar.training import initialise

from ._damage import damaged
from ._try import Fault, trying

CONFIG = TrainConfig(arch="resnet8", width=0.25, batch_size=16)
Changes = tuple[str, Callable[[dict], Any], Callable[[dict], Any]]


def write(path: Path) -> Path:
    """A checkpoint of a small network, as training leaves it."""
    classes = tuple("abcd")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, 32, 32, 3), np.uint8)
    split = Split(images, rng.integers(0, 4, 8, np.int32))
    dataset = Dataset("noise", classes, split, split, None, True)
    network = models.create(CONFIG.arch, 4, width=0.25, key=jax.random.key(0))
    runs.save_model(path, initialise(*network, CONFIG, 64), CONFIG, dataset)
    return path


def forge(
    content: bytes,
    change_header: Callable[[dict], Any] = lambda header: None,
    change_tensors: Callable[[dict], Any] = lambda tensors: None,
    metadata: str | None = None,
) -> bytes:
    """A file whose digest is right, but not what it says."""
    tensors = safetensors.numpy.load(content)
    length = int.from_bytes(content[:8], "little")
    about = json.loads(content[8 : 8 + length])["__metadata__"]["eqcifar"]
    header = json.loads(about)
    del header["sha256"]
    change_header(header)
    change_tensors(tensors)
    if metadata is None:
        metadata = json.dumps({"sha256": _digest(header, tensors), **header})
    return safetensors.numpy.save(tensors, {"eqcifar": metadata})


def corrupted(folder: Path, count: int) -> Fault:
    """Damaged at random: none may be read."""
    path = write(folder / "model.safetensors")
    content = path.read_bytes()
    with trying("checkpoint, damaged at random") as fault:
        for number, each in enumerate(damaged(content, count)):
            path.write_bytes(each)
            fault.read(
                lambda: runs.load_model(path),
                len(each),
                lambda found: False,
                str(number),
            )
    return fault


def consistent(folder: Path, count: int) -> Fault:
    """Forged with a right checksum: what is read has to be a network."""
    path = write(folder / "model.safetensors")
    content = path.read_bytes()
    with trying("checkpoint, forged with a right checksum") as fault:
        for what, each in forged(content, count):
            path.write_bytes(each)
            fault.read(lambda: runs.load_model(path), len(each), _is_network, what)
    return fault


def _is_network(loaded: runs.LoadedModel) -> bool:
    arrays = named_arrays(loaded.model, loaded.state)
    names = all(isinstance(name, str) for name in loaded.classes)
    step = loaded.header["step"]
    return (
        names
        and type(step) is int
        and step >= 0
        and len(loaded.classes) == arrays["classifier.bias"].shape[0]
        and all(np.isfinite(np.asarray(x)).all() for x in arrays.values())
    )


VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        2**70,
        0.5,
        1e308,
        "",
        "x",
        "nan",
        "\x1b[2J",
        "../../x",
    ),
    *(
        [],
        {},
        [None],
        [[]],
        ["a"],
        ["a", "a"],
        {"a": 1},
        {"a": {}},
        [1e400],
        float("nan"),
    ),
    *("x" * 100_000, list(range(10_000)), {str(i): i for i in range(5_000)}),
)
ARCHS = (
    *("wrn40000-1", "wrn28-100000", "resnet99998", "resnet-1", "vgg", "mlp", "vit", ""),
    *(
        "a.b.C",
        "__import__('os')",
        "resnet8\0",
        "x" * 100_000,
        "../resnet8",
        "airbench94",
    ),
)
OPTIONS: dict[str, tuple[Any, ...]] = {
    "arch": ARCHS,
    "width": (1e4, 1e300, 1e-9, 0.0, -1, float("inf"), float("nan"), 64.0),
    "dropout": (1.0, -1, 2, float("nan")),
    "activation": ("gelu", "exec", 3),
    "norm": ("group", "layer", "none", "x"),
    "epochs": (0, -1, 10**30),
    "mean": ([0, 0], [float("nan")] * 3, "abc", [1e308] * 3),
    "std": ([0, 0, 0], [-1, 1, 1], [1e-308] * 3),
}


def forged(content: bytes, count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Files that are consistent in themselves, and absurd."""
    rng = random.Random(seed)
    kinds = (_header, _config, _tensor, _table, _metadata, _container)
    for number in range(count):
        what, each = kinds[number % len(kinds)](content, rng)
        yield f"{number} {what}", each


def _header(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    name = rng.choice(
        *(
            (
                "holds",
                "config",
                "classes",
                "data",
                "step",
                "about",
                "environment",
                "format",
                "normalisation",
                "imported",
                "leaves",
            ),
        )
    )
    value = rng.choice(VALUES)

    def change(header: dict):
        inner = header.get(name)
        if isinstance(inner, dict) and inner and rng.random() < 0.6:
            inner[rng.choice([*inner])] = value
        elif rng.random() < 0.1:
            header.pop(name, None)
        else:
            header[name] = value

    return f"{name} = {value!r:.40}", forge(content, change)


def _config(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    name = rng.choice([*OPTIONS])
    value = rng.choice(OPTIONS[name])
    return f"{name} = {value!r:.40}", forge(
        content, lambda header: header["config"].update({name: value})
    )


def _tensor(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    value = rng.choice((np.nan, np.inf, -np.inf))
    kind = rng.randrange(4)
    whats = f"of {value}", "of another dtype", "of another shape", "gone"
    what = f"a tensor {whats[kind]}"

    def change(tensors: dict):
        name = rng.choice(sorted(tensors))
        array = tensors[name].copy()
        if kind == 0:
            array.reshape(-1)[rng.randrange(array.size)] = value
        elif kind == 1:
            array = array.astype(
                rng.choice((np.float64, np.float16, np.int8, np.bool_))
            )
        elif kind == 2:
            array = rng.choice((array[:0], array[:1], array.reshape(-1), array[None]))
        tensors[name] = array
        if kind == 3:
            del tensors[name]

    def describe(header: dict, tensors: dict):
        header["leaves"] = [
            [name, str(tensors[name].dtype), [*tensors[name].shape]]
            for name, _, _ in header["leaves"]
            if name in tensors
        ]

    # The table says what is there, or what was.
    honest = rng.random() < 0.7
    tensors = safetensors.numpy.load(content)
    change(tensors)

    def replace(found: dict):
        found.clear()
        found.update(tensors)

    return what, forge(
        content, lambda header: honest and describe(header, tensors), replace
    )


def _table(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    kind = rng.randrange(4)

    def change(header: dict):
        leaves = header["leaves"]
        at = rng.randrange(len(leaves))
        if kind == 0:
            leaves[at][2] = rng.choice(
                ([10**12], [0, 10**18], [-1], ["a"], [2**63] * 9)
            )
        elif kind == 1:
            leaves[at][1] = rng.choice(("object", "O", "float1024", "<U9", "V8", ""))
        elif kind == 2:
            leaves[at][0] = rng.choice(("__class__", "../../x", "", "a" * 100_000))
        else:
            leaves.append(leaves[at])

    return "its table", forge(content, change)


def _metadata(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    depth = rng.choice((100, 1000, 100_000, 1_000_000))
    kind = rng.randrange(4)
    if kind == 0:
        return f"JSON {depth} deep", forge(content, metadata="[" * depth)
    if kind == 1:
        deep: Any = 1
        for _ in range(min(depth, 900)):
            deep = {"a": deep}
        return "a header 900 deep", forge(content, lambda h: h["about"].update(a=deep))
    if kind == 2:
        return "a huge header", forge(content, lambda h: h.update(x="x" * 30 * depth))
    many = {f"a{i}": i for i in range(min(depth, 100_000))}
    return "many keys", forge(content, lambda header: header.update(about=many))


def _container(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    length = int.from_bytes(content[:8], "little")
    kind = rng.randrange(5)
    if kind == 0:
        claimed = rng.choice((2**63, 2**64 - 1, 10**9, 0, 1, length + 1))
        return f"a header of {claimed}", claimed.to_bytes(8, "little") + content[8:]
    header = json.loads(content[8 : 8 + length])
    names = [name for name in header if name != "__metadata__"]
    name = rng.choice(names)
    if kind == 1:
        header[name]["data_offsets"] = rng.choice(([0, 2**60], [5, 1], [-1, 4], [0, 0]))
    elif kind == 2:
        header[name]["shape"] = rng.choice(([2**40, 2**40], [-1], [0], [2**63]))
    elif kind == 3:
        header[name]["dtype"] = rng.choice(("F64", "U8", "OBJ", "F4", ""))
    else:
        header["__metadata__"] = rng.choice(({}, {"eqcifar": ""}, {"pickle": "x"}))
    text = json.dumps(header).encode()
    return "the container", len(text).to_bytes(8, "little") + text + content[
        8 + length :
    ]

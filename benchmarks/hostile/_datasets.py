"""Folders of images that are made to harm."""

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from eqcifar import data

from ._damage import damaged
from ._try import Fault, trying

# The colour of an image that is nobody's business.
_PRIVATE = 77


class _Payload:
    def __reduce__(self):
        return os.system, ("touch code-was-run",)


def image(value: int = 10, size: int = 32, form: str = "PNG") -> bytes:
    """An image of one colour."""
    file = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), value, np.uint8)).save(file, form)
    return file.getvalue()


def make(folder: Path) -> Path:
    """Two classes, in train and test."""
    for split, more in (("train", 0), ("test", 1)):
        for name, value in (("cat", 10), ("dog", 20)):
            path = folder / split / name / "0.png"
            path.parent.mkdir(parents=True)
            path.write_bytes(image(value + more))
    return folder


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG that claims a size, with chunks after its header."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + crc

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *(chunk(*each) for each in chunks)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def _zeros(count: int) -> bytes:
    """As many zeros, compressed."""
    packer = zlib.compressobj(1)
    block = bytes(2**20)
    parts = [packer.compress(block) for _ in range(count // len(block))]
    return b"".join([*parts, packer.flush()])


def _in_place(content: bytes) -> Callable[[Path], None]:
    return lambda folder: _put(folder / "train/cat/0.png", content)


def _beside(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: _put(folder / name, content)


def _linked(target: str, name: str = "train/cat/1.png") -> Callable[[Path], None]:
    def change(folder: Path):
        (folder / name).symlink_to(target)

    return change


def _put(path: Path, content: bytes):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _metadata(*names: str) -> Callable[[Path], None]:
    def change(folder: Path):
        lines = ["file_name,label", *(f"{name},cat" for name in names)]
        for split in ("train", "test"):
            lines_here = [*lines, "dog/0.png,dog"]
            (folder / split / "metadata.csv").write_text("\n".join(lines_here) + "\n")

    return change


def _parquet(*rows: dict[str, object]) -> Callable[[Path], None]:
    def change(folder: Path):
        for path in [*folder.rglob("*.png")]:
            path.unlink()
        good = {"bytes": image(), "path": None}
        kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        for split in ("train", "test"):
            images = pa.array([good, good, *rows], kind)
            labels = pa.array(["cat", "dog", *("cat" for _ in rows)])
            table = pa.table({"image": images, "label": labels})
            about = {
                "info": {
                    "features": {
                        "image": {"_type": "Image"},
                        "label": {"dtype": "string", "_type": "Value"},
                    }
                }
            }
            table = table.replace_schema_metadata({"huggingface": json.dumps(about)})
            pq.write_table(table, folder / f"{split}-00000-of-00001.parquet")

    return change


def _saved(filename: str) -> Callable[[Path], None]:
    def change(folder: Path):
        for path in [*folder.rglob("*.png")]:
            path.unlink()
        (folder / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
        for split in ("train", "test"):
            state = {"_data_files": [{"filename": filename}], "_fingerprint": "x"}
            state |= {
                "_format_type": None,
                "_format_kwargs": {},
                "_format_columns": None,
            }
            (folder / split / "state.json").write_text(json.dumps(state))
            (folder / split / "dataset_info.json").write_text("{}")

    return change


def _archive(kind: str, member: str, content: bytes) -> Callable[[Path], None]:
    def change(folder: Path):
        if kind == "zip":
            with zipfile.ZipFile(folder / "train/cat/x.zip", "w") as file:
                file.writestr(member, content)
            return
        with tarfile.open(folder / "train/cat/x.tar", "w") as file:
            about = tarfile.TarInfo(member)
            about.size = len(content)
            file.addfile(about, io.BytesIO(content))

    return change


def _fifo(folder: Path):
    os.mkfifo(folder / "train/cat/1.png")


def _deep(folder: Path):
    here = folder / "train/cat"
    for _ in range(200):
        here /= "d"
    here.mkdir(parents=True)


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


_SCRIPT = b"import os\nos.system('touch code-was-run')\n"
_HOSTS = (
    "http://127.0.0.1:9/x.png",
    "https://localhost:9/x.png",
    "hf://datasets/a/b/x.png",
)


def cases() -> dict[str, dict[str, Callable[[Path], Any]]]:
    """By kind and name, what is changed in a folder of images."""
    zeros = _zeros(2**28)
    bomb = png(32, 32, (b"IDAT", zeros))
    return {
        "decompression bombs": {
            "30000 x 30000": _in_place(png(30_000, 30_000, (b"IDAT", zeros))),
            "2^31 x 2^31": _in_place(png(2**31 - 1, 2**31 - 1)),
            "256 MiB in 32 x 32": _in_place(bomb),
            "text": _in_place(png(32, 32, (b"zTXt", b"a\0\0" + zeros))),
            "profile": _in_place(png(32, 32, (b"iCCP", b"a\0\0" + zeros))),
            "in parquet": _parquet({"bytes": bomb, "path": None}),
            "zip": _archive("zip", "0.png", bytes(2**28)),
            "gif": _in_place(b"GIF89a" + struct.pack("<HH", 65535, 65535) + bytes(99)),
            "bmp": _in_place(
                b"BM"
                + struct.pack(
                    "<IHHIIiiHHIIiiII",
                    99,
                    0,
                    0,
                    54,
                    40,
                    2**30,
                    2**30,
                    1,
                    24,
                    0,
                    0,
                    0,
                    0,
                    0,
                    0,
                )
            ),
        },
        "scripts and pickles": {
            "a loading script": lambda folder: _put(
                folder / f"{folder.name}.py", _SCRIPT
            ),
            "scripts": lambda folder: (
                [
                    _put(folder / name, _SCRIPT)
                    for name in ("data.py", "__init__.py", "train/x.py")
                ]
                and None
            ),
            "a pickle": _beside("train/cat/x.pkl", pickle.dumps(_Payload())),
            "pickles alone": lambda folder: (
                [
                    path.rename(path.with_suffix(".pkl")).write_bytes(
                        pickle.dumps(_Payload())
                    )
                    for path in folder.rglob("*.png")
                ]
                and None
            ),
            "a pickled array": _beside(
                "train/cat/x.npy", _npy(np.array([_Payload()], object))
            ),
            "a pickle as image": _in_place(pickle.dumps(_Payload())),
            "an array as image": _in_place(_npy(np.array([_Payload()], object))),
            "SVG": _in_place(b"<svg xmlns='x'><script>1</script></svg>"),
            "PostScript": _in_place(
                b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\nshowpage"
            ),
            "README that names a host": _beside(
                "README.md",
                b"---\nconfigs:\n- config_name: a\n  data_files:\n"
                b"  - {split: train, path: 'http://127.0.0.1:9/x'}\n---\n",
            ),
            "README with a builder": _beside(
                "README.md",
                b"---\nconfigs:\n- config_name: a\n  data_files: '../../*'\n---\n",
            ),
        },
        "paths out of the folder": {
            "metadata, up": _metadata("../../../private.png"),
            "metadata, absolute": _metadata("/etc/passwd"),
            "metadata, device": _metadata("../../../../../../../dev/zero"),
            "parquet, private": _parquet({"bytes": None, "path": "PRIVATE"}),
            "parquet, device": _parquet({"bytes": None, "path": "/dev/zero"}),
            "parquet, passwords": _parquet({"bytes": None, "path": "/etc/passwd"}),
            **{f"parquet, {x}": _parquet({"bytes": None, "path": x}) for x in _HOSTS},
            "parquet, in a zip on a host": _parquet(
                {"bytes": None, "path": f"zip://x.png::{_HOSTS[0]}"}
            ),
            "saved, up": _saved("../../private.arrow"),
            "saved, device": _saved("/dev/zero"),
            "archive, up": _archive("tar", "../../../outside.png", image()),
            "zip, up": _archive("zip", "../../../outside.png", image()),
        },
        "links and pipes": {
            "a device": _linked("/dev/zero"),
            "passwords": _linked("/etc/passwd"),
            "dead": _linked("/no/such/file"),
            "itself": _linked("1.png"),
            "the root": _linked("/proc/self/root/proc/self/fd", "train/fd"),
            "its parent": _linked("..", "train/up"),
            "a pipe": _fifo,
            "200 folders deep": _deep,
        },
    }


def datasets(folder: Path) -> list[Fault]:
    """Each case once: refused in a line, or read without what is elsewhere."""
    os.environ["EQCIFAR_CACHE"] = str(folder / "cache")
    private = folder / "private.png"
    private.write_bytes(image(_PRIVATE))
    before = sorted(path.name for path in folder.iterdir())
    data.load(str(make(folder / "sets" / "good")))
    faults = []
    for kind, changes in cases().items():
        with trying(f"data set: {kind}") as fault:
            for number, (name, change) in enumerate(changes.items()):
                made = make(folder / "sets" / f"{kind.split()[0]}{number}")
                change(made)
                _name_private(made, private)
                size = sum(p.lstat().st_size for p in made.rglob("*") if p.is_file())
                _load(fault, made, size, name)
        assert not Path("code-was-run").exists()
        faults.append(fault)
    with trying("data set: damaged images") as fault:
        for number, form in enumerate(
            ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF") * 3
        ):
            made = make(folder / "sets" / f"damaged{number}")
            (content,) = damaged(image(10, form=form), 1, number)
            _in_place(content)(made)
            _load(fault, made, 4 * len(content), f"{form} {number}")
    after = {path.name for path in folder.iterdir()} - {"cache", "sets"}
    assert after == {*before} - {"cache", "sets"}, after
    return [*faults, fault]


def _name_private(folder: Path, private: Path):
    # Parquet names files by whole paths.
    for path in folder.glob("*.parquet"):
        table = pq.read_table(path)
        rows = table["image"].to_pylist()
        if any(row["path"] == "PRIVATE" for row in rows):
            for row in rows:
                row["path"] = str(private) if row["path"] else None
            images = pa.array(rows, table.schema.field("image").type)
            pq.write_table(table.set_column(0, "image", images), path)


def _load(fault: Fault, folder: Path, size: int, what: str):
    fault.read(
        lambda: data.load(str(folder)), size, lambda found: not _is_private(found), what
    )


def _is_private(dataset: data.Dataset) -> bool:
    # A note says so where files elsewhere are read.
    told = any("outside" in note for note in dataset.notes)
    return not told and any(
        bool((split.images == _PRIVATE).all((1, 2, 3)).any())
        for split in dataset.splits.values()
    )

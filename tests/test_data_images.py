"""Every road from an image file to pixels gives the same ones."""

import io
import zipfile
from collections import Counter

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from eqcifar import data
from eqcifar.errors import UsageError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (32, 32, 3)).astype(np.uint8)
GREY = PIXELS[..., 0]
AS_RGB = np.repeat(GREY[..., None], 3, axis=2)
SOLID = np.full((32, 32), 255, np.uint8)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EQCIFAR_CACHE", str(tmp_path / "cache"))


def _encode(image, form="PNG", **options):
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(
        file, form, **options
    )
    return file.getvalue()


def _turned(orientation, pixels):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return _encode(np.ascontiguousarray(pixels), exif=exif)


def _palette(**options):
    # 64 colours, and the nearest of them to each pixel.
    return _encode(Image.fromarray(PIXELS).quantize(64), **options)


def _animated():
    frames = [Image.fromarray(255 - PIXELS)]
    return _encode(PIXELS, save_all=True, append_images=frames)


# What is in the file, the pixels that it means, and what is said about it.
READ = {
    "rgb": (_encode(PIXELS), PIXELS, None),
    "grey": (_encode(GREY), AS_RGB, None),
    "16 bits": (_encode(GREY.astype(np.uint16) * 257), AS_RGB, None),
    "1 bit": (_encode(GREY > 127), 255 * np.uint8(AS_RGB > 127), None),
    "palette": (
        _palette(),
        np.asarray(Image.fromarray(PIXELS).quantize(64).convert("RGB")),
        None,
    ),
    # Stored as the camera saw it; orientation 6 says: turn it clockwise.
    "exif 3": (_turned(3, PIXELS[::-1, ::-1]), PIXELS, None),
    "exif 6": (_turned(6, np.rot90(PIXELS)), PIXELS, None),
    "exif 5": (_turned(5, PIXELS.transpose(1, 0, 2)), PIXELS, None),
    "opaque": (
        _encode(np.dstack([PIXELS, SOLID])),
        PIXELS,
        "opaque alpha dropped",
    ),
    "opaque grey": (_encode(np.dstack([GREY, SOLID])), AS_RGB, "opaque alpha dropped"),
    "unused colour": (
        _encode(PIXELS | 1, transparency=(0, 0, 0)),
        PIXELS | 1,
        "opaque alpha dropped",
    ),
    "animated": (_animated(), PIXELS, "first of several frames taken"),
}

CORNER = np.where(np.arange(32 * 32).reshape(32, 32) == 0, 254, 255).astype(np.uint8)
BLACK = np.maximum(PIXELS, 1)
BLACK[3, 4] = 0
REFUSED = {
    "alpha": (_encode(np.dstack([PIXELS, CORNER])), "has transparent pixels"),
    "grey alpha": (_encode(np.dstack([GREY, CORNER])), "has transparent pixels"),
    "hidden": (_encode(BLACK, transparency=(0, 0, 0)), "has transparent pixels"),
    "hidden grey": (_encode(BLACK[..., 0], transparency=0), "has transparent pixels"),
    "hidden 16 bits": (
        _encode(BLACK[..., 0].astype(np.uint16), transparency=0),
        "has transparent pixels",
    ),
    "hidden 1 bit": (_encode(BLACK[..., 0] > 0, transparency=0), "has transparent"),
    "hidden palette": (
        _palette(
            transparency=int(np.asarray(Image.fromarray(PIXELS).quantize(64))[0, 0])
        ),
        "has transparent pixels",
    ),
    "cmyk": (_encode(Image.fromarray(PIXELS).convert("CMYK"), "TIFF"), "of mode CMYK"),
    "float": (_encode(GREY.astype(np.float32), "TIFF"), "of mode F are: convert it"),
    "cut": (_encode(PIXELS)[:1000], "cut|truncated|broken|incomplete"),
    "empty": (b"", "it is not an image"),
}


def _folder(content, form, tmp_path):
    """Data whose first training image is `content`."""
    other, test = _encode(255 - PIXELS), _encode(PIXELS // 2)
    rows = {"train": [(content, 0), (other, 1)], "test": [(test, 0), (test, 1)]}
    folder = tmp_path / "data"
    if form == "imagefolder":
        for split, images in rows.items():
            for image, label in images:
                path = folder / split / "ab"[label] / "0.png"
                path.parent.mkdir(parents=True)
                path.write_bytes(image)
        return folder
    names = datasets.ClassLabel(names=["a", "b"])
    features = datasets.Features(image=datasets.Image(), label=names)
    splits = datasets.DatasetDict()
    for split, images in rows.items():
        columns = {
            "image": [{"bytes": image, "path": None} for image, _ in images],
            "label": [label for _, label in images],
        }
        splits[split] = datasets.Dataset.from_dict(columns, features=features)
    if form == "disk":
        splits.save_to_disk(str(folder))
    else:
        folder.mkdir()
        for split, images in splits.items():
            images.to_parquet(str(folder / f"{split}.parquet"))
    return folder


@pytest.mark.parametrize("kind", READ)
def test_training_and_predict_see_the_same_pixels(kind, tmp_path):
    content, pixels, note = READ[kind]
    (tmp_path / "x").write_bytes(content)
    assumed = Counter()
    image = data.read_image(tmp_path / "x", assumed=assumed)
    np.testing.assert_array_equal(image, pixels)
    dataset = data.load(str(_folder(content, "imagefolder", tmp_path)))
    np.testing.assert_array_equal(dataset.train.images[0], pixels)
    assert assumed == ({note: 1} if note else {})
    assert dataset.notes == ((f"{note} (1 images)",) if note else ())


@pytest.mark.parametrize("kind", REFUSED)
def test_training_and_predict_refuse_the_same_files(kind, tmp_path):
    content, reason = REFUSED[kind]
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(UsageError, match=reason) as one:
        data.read_image(tmp_path / "x")
    folder = _folder(content, "imagefolder", tmp_path)
    with pytest.raises(UsageError, match=reason) as other:
        data.load(str(folder))
    assert str(one.value).startswith(f"cannot read {tmp_path / 'x'}: ")
    prefix = f"Cannot use the image in row 0 of split 'train' of '{folder}': "
    assert str(other.value).startswith(prefix)
    assert str(one.value).split(": ", 1)[1] == str(other.value).split(": ", 1)[1]
    assert "\n" not in str(one.value)


@pytest.mark.parametrize("form", ["parquet", "disk"])
def test_all_forms_of_a_dataset_are_read_alike(form, tmp_path):
    content, pixels, _ = READ["exif 6"]
    dataset = data.load(str(_folder(content, form, tmp_path)))
    np.testing.assert_array_equal(dataset.train.images[0], pixels)
    np.testing.assert_array_equal(dataset.train.labels, [0, 1])
    assert dataset.classes == ("a", "b")


@pytest.mark.parametrize("archive", [True, False])
def test_an_image_outside_of_the_folder_is_read_anew(archive, tmp_path):
    folder = _folder(_encode(PIXELS), "parquet", tmp_path)
    table = pq.read_table(folder / "train.parquet")
    path = str(tmp_path / ("x.zip" if archive else "x.png"))
    row = {"bytes": None, "path": f"zip://x.png::{path}" if archive else path}
    column = pa.array([row, row], table.schema.field("image").type)
    table = table.set_column(0, table.schema.field("image"), column)
    pq.write_table(table, folder / "train.parquet")
    for image in (PIXELS, PIXELS // 3):
        if archive:
            with zipfile.ZipFile(path, "w") as file:
                file.writestr("x.png", _encode(image))
        else:
            (tmp_path / "x.png").write_bytes(_encode(image))
        dataset = data.load(str(folder))
        np.testing.assert_array_equal(dataset.train.images[1], image)


def test_a_huge_image_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    folder = _folder(_encode(np.zeros((1, 3000), np.uint8)), "imagefolder", tmp_path)
    # Pillow warns of more pixels than that, and refuses more than twice as many.
    for limit, reason in ((2000, "it is 1x3000 pixels, not 32x32"), (1000, "exceeds")):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(UsageError, match=reason):
            data.load(str(folder))

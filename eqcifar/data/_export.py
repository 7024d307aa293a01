import io
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

from ..errors import UsageError
from ._dataset import Dataset, Split
from ._hub import quiet
from ._synthetic import COARSE, TEXTURED


def export(
    dataset: Dataset,
    folder: str | Path,
    *,
    form: Literal["parquet", "disk"] = "parquet",
) -> Path:
    """Write a dataset as `datasets` reads it, with CIFAR's column names.

    Images are stored as PNG, so that `load(folder)` gives the same arrays. Columns are
    `img` and `label`, or `fine_label` for 100 classes; `synthetic100` has a
    `coarse_label` too, as CIFAR-100 has. A validation split is written as `validation`,
    which `load` leaves aside.

    **Arguments:**

    - `dataset`: to write.
    - `folder`: to create; it may exist if it is empty.
    - `form`: `"parquet"`, as datasets are stored on the hub, or `"disk"`, as
        `save_to_disk` writes them.

    **Returns:**

    The folder.

    **Raises:**

    `eqcifar.errors.UsageError` where `folder` holds something.
    """
    import datasets

    folder = Path(os.path.expanduser(folder))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{str(folder)!r} exists already: give a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    features = datasets.Features(_features(dataset))
    # A folder that is there is whole: it gets its name last.
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        splits = datasets.DatasetDict()
        for name, split in dataset.splits.items():
            columns = _columns(split, list(features))
            name = "validation" if name == "val" else name
            splits[name] = datasets.Dataset.from_dict(columns, features=features)
        with quiet():
            if form == "disk":
                splits.save_to_disk(str(scratch))
            else:
                (scratch / "data").mkdir()
                for name, rows in splits.items():
                    file = scratch / "data" / f"{name}-00000-of-00001.parquet"
                    rows.to_parquet(str(file))
        scratch.chmod(0o755)
        os.replace(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _features(dataset: Dataset) -> dict[str, Any]:
    from datasets import ClassLabel, Image

    label = ClassLabel(names=list(dataset.classes))
    if len(dataset.classes) != 100:
        return {"img": Image(), "label": label}
    features = {"img": Image(), "fine_label": label}
    if dataset.classes == TEXTURED:
        features["coarse_label"] = ClassLabel(names=list(COARSE))
    return features


def _columns(split: Split, names: list[str]) -> dict[str, list]:
    columns: dict[str, list] = {name: split.labels.tolist() for name in names}
    columns["img"] = [{"bytes": _png(image), "path": None} for image in split.images]
    if "coarse_label" in columns:
        columns["coarse_label"] = (split.labels // 5).tolist()
    return columns


def _png(image: Any) -> bytes:
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    return content.getvalue()

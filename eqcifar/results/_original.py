"""Reads the folders of the original project, sungyubkim/cifar_jax.

They are `<dataset>/<model>_<mixup>_<lr>_<batch size>_<seed>`, with a `log.tsv` of every
tenth epoch and a `sharpness.tsv`; no other file says what was run, so that here alone
names of folders are taken apart.
"""

import math
import os
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..config import TrainConfig
from ..errors import RunError, UsageError
from ..recipes import recipe_options
from ..storage import find_folders, last_values, read_measures
from ._records import SELECTIONS, Record, check_selection, drop_copies

_ARCHITECTURES = {
    "vgg": "vgg",
    "resnet": "original-resnet18",
    "wrn": "original-wrn28-10",
}


# Its README's table is of 8 GPUs; folders do not tell.
_DEVICES = 8


_NUMBER = r"(\d+(?:\.\d+)?(?:e-?\d+)?)"


_NAME = re.compile(rf"(vgg|resnet|wrn)_{_NUMBER}_{_NUMBER}_(\d+)_(\d+)")


_FILES = {"log.tsv", "sharpness.tsv"}


def read_original(
    root: str | os.PathLike[str],
    *,
    select: str = "last",
    warn: Callable[[str], None] = warnings.warn,
) -> list[Record]:
    """What runs of the original project have come to, as `read_records` gives it.

    Its `wd`, half the squared norm of the weights, becomes `weight_norm`, and its
    `grad_norm`, a squared norm, `gradient_norm`. Its `acc` and `loss` are those of an
    epoch's last batch. What the folder's name does not tell is taken to be as in
    `--recipe original`, with BatchNorm and MixUp by the eighth of a batch that each of
    8 devices has. A run that ends before the longest of its configuration counts as
    interrupted.

    **Arguments:**

    - `root`: the original's `res_cifar`, or a folder above or below it.
    - `select`, `warn`: as in `read_records`; there is no validation split.

    **Returns:**

    A record a run.

    **Raises:**

    `UsageError` when there is no such folder.
    """
    found = []
    for path in find_folders(root, _FILES, warn):
        try:
            found.append(_read(path, SELECTIONS[select], warn))
        except RunError as error:
            warn(f"left out {path}: {error}")
    longest: dict[TrainConfig, int] = {}
    for record, epoch in found:
        longest[record.recipe] = max(epoch, longest.get(record.recipe, 1))
    records = []
    for record, epoch in found:
        epochs = longest[record.recipe]
        # A run that was only evaluated has no log.
        if 0 < epoch < epochs:
            record = replace(record, state="interrupted", values={})
        records.append(replace(record, recipe=replace(record.recipe, epochs=epochs)))
    return check_selection(drop_copies(records, warn), select, warn)


def _read(
    path: Path, column: str | None, warn: Callable[[str], None]
) -> tuple[Record, int]:
    path = path.absolute()
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise RunError(
            "the folder is not named <model>_<mixup>_<lr>_<batch size>_<seed>"
        )
    model, mixup, lr, batch_size, seed = match.groups()
    group = int(batch_size) // math.gcd(int(batch_size), _DEVICES)
    own = {
        "arch": _ARCHITECTURES[model],
        "dataset": path.parent.name,
        "mixup": float(mixup),
        "lr": float(lr),
        "batch_size": int(batch_size),
        "bn_group": group,
        "mixup_group": group,
    }
    try:
        recipe = TrainConfig(**{**recipe_options("original"), **own})
    except UsageError as error:
        raise RunError(str(error)) from error
    values, epoch = {}, 0
    if (path / "log.tsv").exists():
        values, epoch = last_values(path / "log.tsv", column)
    if "wd" in values:
        values["weight_norm"] = math.sqrt(2 * values.pop("wd"))
    if "grad_norm" in values:
        values["gradient_norm"] = math.sqrt(values.pop("grad_norm"))
    measures, bases = read_measures(path, epoch, warn)
    values = measures | values
    record = Record(path, recipe, int(seed), "done", values=values, bases=bases)
    return record, epoch

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import TrainConfig
from ..fields import show_field

_SHORT = {
    "width": "w",
    "dropout": "drop",
    "val_size": "val",
    "limit_train": "train",
    "limit_test": "test",
    "subset": "sub",
    "label_noise": "noise",
    "label_noise_over": "over",
    "random_labels": "randomlabels",
    "label_seed": "labelseed",
    "epochs": "ep",
    "until_loss": "until",
    "swa_from": "swa",
    "batch_size": "bs",
    "momentum": "m",
    "weight_decay": "wd",
    "clip_norm": "clip",
    "label_smoothing": "ls",
    "bn_group": "bn",
    "mixup_group": "mixupgroup",
    "cutmix_probability": "cutmixprob",
    "eval_every": "every",
    "decay_bias": "biasdecay",
    "test_flip": "testflip",
    "test_crop": "testcrop",
    "crop_pad": "pad",
    "bn_bias_lr": "bnlr",
}


_LONGEST_NAME = 80


def run_path(
    root: str | os.PathLike[str],
    config: TrainConfig,
    about: Mapping[str, Any] | None = None,
) -> Path:
    """The folder of a run: `root/<dataset>/<config name>-<hash>/seed<k>`.

    **Arguments:**

    - `root`: the folder of all runs.
    - `config`: of the run; of one made in Python, that of `named_config`.
    - `about`: what `train_run_with` is told of it, which goes into the hash.

    **Returns:**

    The path, whose folder need not exist.
    """
    # Of a folder the last name, for where it lies is no property of a run.
    dataset = config.dataset
    if Path(dataset).is_absolute() or dataset.startswith((".", "~")):
        dataset = Path(dataset).name
    dataset = _safe(dataset)[-_LONGEST_NAME:].lstrip("._-") or "dataset"
    name = f"{config_name(config)}-{config_hash(config, about)}"
    return Path(root) / dataset / name / f"seed{config.seed}"


def config_name(config: TrainConfig) -> str:
    """The architecture and whatever differs from the default, to be read by people.

    **Arguments:**

    - `config`: of a run.

    **Returns:**

    At most 80 letters, digits and signs that every file system takes.
    """
    parts = [config.arch]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in ("arch", "dataset", "seed") or value == field.default:
            continue
        name = _SHORT.get(field.name, field.name)
        if isinstance(value, bool):
            parts.append(name if value else f"no{name}")
        elif isinstance(value, str):
            # Of a path the last name, as of a data set's.
            parts.append(Path(value).name)
        else:
            parts.append(f"{name}{show_field(value)}")
    return _safe("-".join(parts))[:_LONGEST_NAME].strip("._-")


def config_hash(config: TrainConfig, about: Mapping[str, Any] | None = None) -> str:
    """Eight hexadecimal digits that all seeds of a configuration share.

    **Arguments:**

    - `config`: of a run.
    - `about`: what `train_run_with` was told of it.

    **Returns:**

    The digits, as text.
    """
    # By way of `from_dict`, for which a learning rate of 1 is 1.0.
    fields = TrainConfig.from_dict(config.to_dict()).to_dict()
    del fields["seed"]
    fields |= {"about": dict(about)} if about else {}
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _safe(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", text)

"""Writes folders of runs as training leaves them, without training."""

import dataclasses
import math
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from eqcifar.config import TrainConfig
from eqcifar.storage import COLUMNS, Run, run_path
from eqcifar.storage._files import write_json

_ENVIRONMENT = {
    "versions": {"python": "3.11.7", "eqcifar": "0.1.0", "jax": "0.10.2"},
    "devices": {"platform": "gpu", "kind": "NVIDIA A100", "count": 8, "cpus": 64},
    "git": "0123456789abcdef" * 2,
}


def log_rows(config: TrainConfig, accuracy: float) -> list[dict[str, float]]:
    """A plausible log that ends at this accuracy."""
    rng = random.Random(repr(config))
    rows = []
    for epoch in range(1, config.epochs + 1):
        share = epoch / config.epochs
        row = {column: rng.random() for column in COLUMNS}
        row |= {"epoch": epoch, "loss_va": math.nan, "acc_va": math.nan}
        row |= {"seconds": 3.0 + rng.random(), "lr": config.lr * (1 - share)}
        noise = 0.05 * (rng.random() - 0.5) * (1 - share)
        row["acc_te"] = accuracy * (1 - 0.7 * 0.01**share) + noise
        row["acc_tr"] = min(1.0, row["acc_te"] * 1.05)
        rows.append(row)
    rows[-1]["acc_te"] = accuracy
    return rows


def write_run(
    root: Path,
    config: TrainConfig,
    accuracy: float = 0.9,
    *,
    state: str = "done",
    sharpness: Mapping[str, float] | None = None,
    path: Path | None = None,
    rows: Iterable[Mapping[str, float]] | None = None,
    synthetic: bool | None = None,
    about: Mapping[str, Any] | None = None,
    in_python: bool = False,
    **status: Any,
) -> Run:
    """Write a run's folder, as far as tables read it."""
    run = Run(run_path(root, config) if path is None else path)
    run.path.mkdir(parents=True, exist_ok=True)
    if synthetic is None:
        synthetic = config.dataset.startswith("synthetic")
    write_json(
        run.path / "config.json",
        {
            "format": 1,
            "eqcifar": "0.1.0",
            "synthetic": synthetic,
            "about": about or {},
            "in_python": in_python,
            "data": {"sha256": f"digest of {config.dataset}"},
            "config": config.to_dict(),
        },
    )
    write_json(run.path / "env.json", _ENVIRONMENT)
    write_json(run.path / "status.json", {"state": state, **status})
    rows = log_rows(config, accuracy) if rows is None else rows
    write_tsv(run.path / "log.tsv", rows)
    if sharpness is not None:
        write_tsv(run.path / "sharpness.tsv", [sharpness])
    return run


def write_tsv(path: Path, rows: Iterable[Mapping[str, Any]]):
    """Write a table in full precision."""
    rows = list(rows)
    lines = [list(rows[0]), *(map(repr, row.values()) for row in rows)] if rows else []
    path.write_text("".join("\t".join(line) + "\n" for line in lines))


def write_grid(root: Path, *, sharpness: bool = False, **fields: Any):
    """3 networks on 2 datasets, with and without MixUp, 4 seeds each."""
    rng = random.Random(0)
    for arch, base in (("vgg", 0.93), ("resnet18", 0.95), ("wrn28-10", 0.96)):
        for dataset, less in (("cifar10", 0.0), ("cifar100", 0.18)):
            for mixup, more in ((0.0, 0.0), (0.4, 0.007)):
                for seed in range(4):
                    config = TrainConfig(
                        arch=arch, dataset=dataset, mixup=mixup, seed=seed, epochs=20
                    )
                    accuracy = base - less + more + 0.002 * (rng.random() - 0.5)
                    trace = 900 * (1 - accuracy) * (1 + 0.2 * rng.random())
                    measures = {"tr_hess": trace, "tr_hess_se": trace / 50}
                    write_run(
                        root,
                        dataclasses.replace(config, **fields),
                        accuracy,
                        sharpness=measures if sharpness else None,
                    )

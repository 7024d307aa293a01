"""The text files of a run, of sweeps and of settings, changed by chance."""

import json
import os
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from eqcifar import results
from eqcifar.config import TrainConfig, read_values
from eqcifar.errors import RunError
from eqcifar.storage import (
    COLUMNS,
    Run,
    append_row,
    append_wide,
    read_sharpness_log,
    run_path,
    write_json,
)
from eqcifar.sweeps import Grid

from ._damage import edited
from ._try import Fault, trying

CONFIG = TrainConfig(epochs=3, seed=2, mixup=0.4)
_ENVIRONMENT = {
    "versions": {"python": "3.11.7", "eqcifar": "0.1.0", "jax": "0.10.2"},
    "devices": {"platform": "gpu", "kind": "NVIDIA A100", "count": 8, "cpus": 64},
    "git": "0123456789abcdef",
}
_SWEEP = """\
epochs = 3
batch_size = 100
[grid]
arch = ["vgg", "resnet18"]
seed = "0-3"
mixup = "0,0.4"
[[list]]
lr = 0.1
weight_decay = 1e-4
[[list]]
lr = 0.2
"""
# A run's files that tables, figures and reports read.
FILES = (
    *("config.json", "status.json", "log.tsv", "sharpness.tsv"),
    *("sharpness_log.tsv", "env.json"),
)


def write_run(
    root: Path, config: TrainConfig = CONFIG, dataset: str = "", **about: Any
) -> Run:
    """A finished run with measures, as training leaves it, without training.

    A name of a data set need not be one that a configuration can have.
    """
    rng = random.Random(repr(config))
    run = Run(run_path(root, config, about))
    run.path.mkdir(parents=True)
    description = {
        "format": 1,
        "eqcifar": "0.1.0",
        "synthetic": False,
        "in_python": bool(about),
        "about": about,
        "classes": [*"abcd"],
        "data": {
            "name": dataset or config.dataset,
            "sha256": "0" * 64,
            "examples": {"train": 500},
        },
        "config": config.to_dict() | ({"dataset": dataset} if dataset else {}),
    }
    write_json(run.path / "config.json", description)
    write_json(run.path / "env.json", _ENVIRONMENT)
    status = {"state": "done", "epoch": config.epochs, "seconds": 7.5, "host": "a"}
    write_json(run.path / "status.json", status)
    measures: dict[str, str | float] = {}
    for epoch in range(1, config.epochs + 1):
        row: dict[str, int | float] = {name: rng.random() for name in COLUMNS}
        append_row(run.path / "log.tsv", {**row, "epoch": epoch})
        measures = {"tr_hess": 100 * rng.random(), "tr_hess_se": rng.random()}
        measures |= {"examples": 100, "loss_name": "mse", "target": "split"}
        append_wide(run.path / "sharpness_log.tsv", {"epoch": epoch, **measures})
    append_wide(run.path / "sharpness.tsv", {"step": 15, **measures, "lmax": 3.5})
    append_wide(run.path / "sharpness.tsv", {"step": 15, "examples_te": 9, "tr_te": 1})
    return run


def seen(root: Path) -> tuple[str, list[str]]:
    """All that tables and figures say of the runs in a folder, and the warnings."""
    lines: list[str] = []
    records = results.read_records(root, warn=lines.append)
    tables = results.tabulate(records)
    metrics = results.measured_columns(tables)
    said: list[Any] = [results.long_rows(tables, metrics)]
    said += [results.hardware(records), results.software(records)]
    for record in records:
        for read in (_log, _sharpness_log):
            try:
                said.append(read(record.path))
            except RunError as error:
                lines.append(str(error))
                said.append([])
    return results.to_json(said), lines


def _log(path: Path) -> Any:
    return Run(path).log()


def _sharpness_log(path: Path) -> Any:
    rows = read_sharpness_log(path / "sharpness_log.tsv")
    return [{"epoch": epoch, **row} for epoch, row in rows.items()]


def run_files(folder: Path, count: int) -> list[Fault]:
    """Each file of a run edited: a table either has its numbers, or a line says why."""
    root = folder / "results"
    run = write_run(root)
    truth, lines = seen(root)
    assert not lines, lines
    faults = []
    for name in FILES:
        path = run.path / name
        content = path.read_bytes()
        with trying(f"{name}, edited") as fault:
            for number, each in enumerate(edited(content, count)):
                path.write_bytes(each)
                fault.read(
                    _told(root, fault),
                    len(each),
                    lambda found: not strange(found[0], truth),
                    f"{number} {name}",
                )
        path.write_bytes(content)
        faults.append(fault)
    return faults


def _configs(path: Path) -> list[TrainConfig]:
    return Grid.read(path).configs()


def _told(root: Path, fault: Fault) -> Callable[[], tuple[str, list[str]]]:
    def read():
        text, lines = seen(root)
        if lines:
            fault.refused += 1
            fault.line = lines[0]
            assert not any("\n" in line for line in lines), lines
        return text, lines

    return read


def strange(text: str, truth: str) -> list[Any]:
    """What is said that is not true; what is not said is no lie."""
    found, right = json.loads(text), json.loads(truth)
    # Hardware and software, second and third, have no numbers that are measured.
    said, true = [found[0], *found[3:]], [right[0], *right[3:]]
    return [
        row
        for rows, known in zip(said, true, strict=False)
        for row in rows
        if row not in known and row.get("count") != 0
    ]


def settings(folder: Path, count: int) -> list[Fault]:
    """Files that users write: refused in a line, or read as what they say."""
    readers: dict[str, tuple[bytes, Callable[[Path], Any]]] = {
        "sweep.toml": (_SWEEP.encode(), _configs),
        "config.toml": (
            b'arch = "vgg"\nlr = 0.1\nmean = [0.1, 0.2, 0.3]\naugment = false\n',
            lambda path: TrainConfig.from_dict(read_values(path)),
        ),
        "config.json": (
            json.dumps(CONFIG.to_dict(), indent=2).encode(),
            lambda path: TrainConfig.from_dict(read_values(path)),
        ),
    }
    faults = []
    for name, (content, reader) in readers.items():
        path = folder / name
        with trying(f"{name} of --file or --config, edited") as fault:
            for number, each in enumerate(edited(content, count)):
                path.write_bytes(each)
                what = f"{number} {each!r:.60}"
                fault.read(partial(reader, path), len(each), what=what)
        faults.append(fault)
    with trying("sweep.toml whose lists multiply") as fault:
        for size in (10, 100, 1000):
            axis = ", ".join(str(1 / (i + 2)) for i in range(size))
            names = ("lr", "mixup", "weight_decay", "width", "momentum", "ema")
            path = folder / "many.toml"
            path.write_text("[grid]\n" + "".join(f"{n} = [{axis}]\n" for n in names))
            fault.read(partial(_configs, path), os.path.getsize(path))
    return [*faults, fault]

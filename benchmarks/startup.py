"""How long one waits: imports, help, tables, and the first step of training.

Each measurement is a process of its own, timed from before its start. `cold` has empty
caches of decoded images and compiled programs, `warm` those that the cold start left;
the operating system's cache of files is warm in both.

    python -m benchmarks startup --archs resnet18,resnet8 --dataset FOLDER
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from . import tabulate
from .shared import Row, alternate, parser, spread, store

COMMANDS = {
    "import eqcifar": ["-c", "import eqcifar"],
    "import eqcifar.runs": ["-c", "import eqcifar.runs"],
    "eqcifar --help": ["-m", "eqcifar_cli", "--help"],
    "eqcifar train --help": ["-m", "eqcifar_cli", "train", "--help"],
    "eqcifar archs": ["-m", "eqcifar_cli", "archs"],
}

# Trains until the first step is done, and says when what was reached.
_TRAIN = """
import json, os, sys, time
began, out, arch, dataset, batch = sys.argv[1:]
marks = {}

def mark(name):
    marks[name] = time.time() - float(began)

from eqcifar import runs
from eqcifar.config import TrainConfig
mark("imported, s")

def end(progress):
    mark("first step done, s")
    print(json.dumps(marks), flush=True)
    os._exit(0)

hooks = runs.Hooks(
    on_start=lambda *_: mark("data and network ready, s"),
    on_compiled=lambda _: mark("first step starts, s"),
    on_progress=end,
)
config = TrainConfig(arch=arch, dataset=dataset, batch_size=int(batch))
runs.train_run(config, out, hooks=hooks)
"""


def first_step(cache: Path, arch: str, dataset: str, batch: int) -> dict[str, float]:
    """Seconds from the start of a process to each mark."""
    env = {
        **os.environ,
        "EQCIFAR_CACHE": str(cache),
        "JAX_COMPILATION_CACHE_DIR": str(cache / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    with tempfile.TemporaryDirectory() as out:
        words = [str(time.time()), out, arch, dataset, str(batch)]
        process = subprocess.run(
            [sys.executable, "-c", _TRAIN, *words],
            env=env,
            capture_output=True,
            text=True,
        )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


def training(arch: str, dataset: str, batch: int, rounds: int) -> list[Row]:
    """The marks of cold and warm starts."""
    starts: dict[str, list[dict]] = {"cold": [], "warm": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            for each in starts.values():
                each.append(first_step(Path(folder), arch, dataset, batch))
    return [
        spread(f"{arch}, {kind}", mark, [start[mark] for start in each])
        for kind, each in starts.items()
        for mark in each[0]
    ]


def main(argv: list[str]):
    """Time commands, then starts of training."""
    options = parser(__doc__)
    options.add_argument("--archs", default="resnet18,resnet8")
    options.add_argument("--dataset", default="synthetic")
    options.add_argument("--batch", type=int, default=128)
    options.add_argument("--rounds", type=int, default=5)
    args = options.parse_args(argv)

    def work(words: list[str]):
        command = [sys.executable, *words]
        return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    works = {name: work(words) for name, words in COMMANDS.items()}
    seconds = alternate(works, args.rounds)
    with tempfile.TemporaryDirectory() as folder:
        means = tabulate.write(Path(folder), 1000, 200)
        seconds["eqcifar tabulate, 1,000 runs"] = [
            tabulate.measure(Path(folder), means)[0] for _ in range(args.rounds)
        ]
    store("startup", [spread(name, "s", values) for name, values in seconds.items()])
    for arch in args.archs.split(","):
        rows = training(arch, args.dataset, args.batch, args.rounds)
        store("startup_training", rows, batch=args.batch)

"""How long one waits: imports, help, tables, and the first step of training.

Each measurement is a process of its own, timed from before its start. `cold` has empty
caches of decoded images and compiled programs, `warm` those that the cold start left;
the operating system's cache of files is warm in both. The first step of `eqcifar train`
starts when its program is there, and is done when its result is.

    python -m benchmarks.startup --archs resnet18,resnet8 --dataset FOLDER
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from . import tabulate
from .records import store
from .speed import spread

COMMANDS = {
    "import eqcifar": ["-c", "import eqcifar"],
    "import eqcifar.runs": ["-c", "import eqcifar.runs"],
    "eqcifar --help": ["-m", "eqcifar_cli", "--help"],
    "eqcifar train --help": ["-m", "eqcifar_cli", "train", "--help"],
    "eqcifar archs": ["-m", "eqcifar_cli", "archs"],
}

# Trains until the first step is done, and says when what was reached.
_TRAIN = """
import collections, json, os, sys, time
began = float(sys.argv.pop(1))
marks, spent, count = {}, collections.Counter(), collections.Counter()

def mark(name):
    marks[name] = time.time() - began

def listen(event, seconds, **_):
    name = event.rsplit("/", 1)[-1].removesuffix("_duration")
    spent[name] += seconds
    count[name] += 1
    if name == "backend_compile":
        mark("first step starts")

from eqcifar_cli import app
from eqcifar import 
import jax
import eqcifar.runs._train as train
import eqcifar.training._fit as fit
mark("imported")
jax.monitoring.register_event_duration_secs_listener(listen)

def marked(module, name, label):
    inner = getattr(module, name)
    def call(*args, **kwargs):
        result = inner(*args, **kwargs)
        mark(label)
        return result
    setattr(module, name, call)

marked(train.data, "load", "data loaded")
marked(train.models, "create", "network made")
marked(train, "initialise", "optimiser made")
make_steps = fit.make_steps

def make(*args, **options):
    steps = make_steps(*args, **options)
    def call(*args):
        jax.block_until_ready(steps(*args).step)
        mark("first step done")
        print(json.dumps({"marks": marks, "spent": spent, "count": count}), flush=True)
        os._exit(0)
    call.lower = steps.lower
    return call

fit.make_steps = make
app(["train", *sys.argv[1:]])
"""


def first_step(cache: Path, arguments: list[str]) -> dict[str, Any]:
    env = {**os.environ, "EQCIFAR_CACHE": str(cache)}
    env.pop("JAX_COMPILATION_CACHE_DIR", None)
    with tempfile.TemporaryDirectory() as out:
        process = subprocess.run(
            [sys.executable, "-c", _TRAIN, str(time.time()), *arguments, "--out", out],
            env=env,
            capture_output=True,
            text=True,
        )
    lines = process.stdout.splitlines()
    assert process.returncode == 0, process.stderr
    return json.loads(lines[-1])


def train(arch: str, dataset: str, batch: int, repeats: int) -> dict[str, Any]:
    """The marks of cold and warm starts, and what the last warm one compiled."""
    options = ["--arch", arch, "--dataset", dataset, "--batch-size", str(batch)]
    rounds: dict[str, list[dict]] = {"cold": [], "warm": []}
    sizes: list[int] = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            for starts in rounds.values():
                starts.append(first_step(Path(folder), options))
            programs = (Path(folder) / "jax").glob("*-cache")
            sizes = [path.stat().st_size for path in programs]
    result: dict[str, Any] = {
        name: {
            mark: spread([start["marks"][mark] for start in starts])
            for mark in starts[0]["marks"]
        }
        for name, starts in rounds.items()
    }
    last = rounds["warm"][-1]
    return {
        **result,
        "warm_spent_seconds": last["spent"],
        "warm_count": last["count"],
        "programs": len(sizes),
        "programs_bytes": sum(sizes),
    }


def together(count: int, arch: str, dataset: str, batch: int) -> dict[str, Any]:
    """Processes that start at once on empty caches, and one after them."""
    options = ["--arch", arch, "--dataset", dataset, "--batch-size", str(batch)]
    options += ["--epochs", "1", "--limit-train", str(2 * batch), "--limit-test", "100"]
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "EQCIFAR_CACHE": f"{folder}/cache"}
        env.pop("JAX_COMPILATION_CACHE_DIR", None)
        command = [sys.executable, "-m", "eqcifar_cli", "train", *options]
        processes = [
            subprocess.Popen(
                [*command, "--out", f"{folder}/{i}"],
                env=env,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for i in range(count)
        ]
        errors = [process.communicate()[1] for process in processes]
        after = first_step(Path(env["EQCIFAR_CACHE"]), options)
    codes = [process.returncode for process in processes]
    assert codes == [0] * count, errors
    assert not any(errors), errors
    found, asked = after["count"]["cache_retrieval_time_sec"], after["count"]
    return {
        "processes": count,
        "exit_codes": codes,
        "lines_on_stderr": sum(len(text.splitlines()) for text in errors),
        "programs_found_after": found,
        "programs_needed_after": asked["backend_compile"],
    }


def command_seconds(arguments: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def table_seconds(runs: int, repeats: int) -> list[float]:
    folder = Path(tempfile.mkdtemp())
    try:
        means = tabulate.write(folder, runs, 200)
        return [tabulate.measure(folder, means)[0] for _ in range(repeats)]
    finally:
        shutil.rmtree(folder)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--archs", default="resnet18,resnet8")
    parser.add_argument("--dataset", default="synthetic")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--machine", default="", help="ends the name of the result")
    args = parser.parse_args()
    load = os.getloadavg()[0]
    commands = {
        name: spread([command_seconds(command) for _ in range(args.repeats)])
        for name, command in COMMANDS.items()
    }
    commands["eqcifar tabulate, 1,000 runs"] = spread(table_seconds(1000, args.repeats))
    for name, seconds in commands.items():
        print(f"{name:30} {seconds['median']:6.2f} s", flush=True)
    starts = {}
    for arch in args.archs.split(","):
        starts[arch] = train(arch, args.dataset, args.batch, args.repeats)
        for kind in ("cold", "warm"):
            marks = starts[arch][kind].items()
            line = ", ".join(f"{mark} {s['median']:.2f} s" for mark, s in marks)
            print(f"eqcifar train -a {arch} {kind}: {line}", flush=True)
    at_once = together(4, args.archs.split(",")[-1], args.dataset, args.batch)
    print(f"together on an empty cache: {at_once}")
    store(
        "startup",
        {
            "load_average": load,
            "batch": args.batch,
            "commands": commands,
            "train": starts,
            "together": at_once,
        },
        args.machine,
    )


if __name__ == "__main__":
    main()

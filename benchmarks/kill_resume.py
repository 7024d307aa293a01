"""Kill a training run at random moments, resume it, and compare it with another.

The other run, of the same configuration, is left alone. Both must end with the same
bytes in `model.safetensors` and `last.safetensors`, and with the same `log.tsv` but for
its columns of times. The script fails where they do not.

    python benchmarks/kill_resume.py --kills 20
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "kill_resume.json"
TIMES = "seconds", "images_per_s"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--save-all", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work(options.worker, options.epochs, options.save_all)
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    failed = not (result["same_weights"] and result["same_log"])
    return int(failed or result["kills"] < options.kills)


def measure(folder: Path, options: argparse.Namespace) -> dict:
    alone, killed = folder / "alone", folder / "killed"
    process = start(alone, options.epochs)
    wait_until_training(process)
    began = time.perf_counter()
    finish(process)
    seconds = time.perf_counter() - began

    rng = random.Random(options.seed)
    moments = []
    # Spread over the run by the rows of its log, then at any moment of an epoch.
    for least in sorted(rng.choices(range(options.epochs - 5), k=options.kills)):
        # Half of them with a checkpoint after each epoch, so that kills meet writes.
        process = start(killed, options.epochs, save_all=len(moments) % 2 == 0)
        wait_until_training(process)
        while rows(killed) < least and process.poll() is None:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 2 * seconds / options.epochs))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if process.returncode == -signal.SIGKILL:
            left = sorted(path.name for path in killed.glob(".tmp-*"))
            moments.append({"rows": rows(killed), "left": left})
    finish(start(killed, options.epochs))

    names = "model.safetensors", "last.safetensors"
    return {
        "what": "SIGKILL at random moments of a training run, then resumed",
        "kills": len(moments),
        "kills_within_a_write": sum(bool(moment["left"]) for moment in moments),
        "same_weights": all(
            digest(alone / name) == digest(killed / name) for name in names
        ),
        "same_log": log(alone) == log(killed),
        "epochs": options.epochs,
        "uninterrupted_s": round(seconds, 2),
        "moments": moments,
        "environment": json.loads((alone / "env.json").read_text()),
    }


def start(run: Path, epochs: int, save_all: bool = False) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--worker", run, "--epochs", epochs]
    if save_all:
        command.append("--save-all")
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(run.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(
        list(map(str, command)),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until_training(process: subprocess.Popen[str]):
    assert process.stdout is not None
    if process.stdout.readline() != "training\n":
        finish(process)
        raise SystemExit("the worker ended before it trained")


def finish(process: subprocess.Popen[str]):
    _, errors = process.communicate(timeout=600)
    if process.returncode:
        raise SystemExit(f"the worker failed:\n{errors}")


def work(run: Path, epochs: int, save_all: bool):
    import equinox as eqx
    import jax
    import numpy as np

    from eqcifar.config import TrainConfig
    from eqcifar.data import Dataset, Split
    from eqcifar.models import BatchNorm
    from eqcifar.parallel import make_mesh
    from eqcifar.runs import Hooks, _train, train_run_with

    class Net(eqx.Module):
        conv: eqx.nn.Conv2d
        norm: BatchNorm
        dropout: eqx.nn.Dropout
        linear: eqx.nn.Linear

        def __init__(self, key):
            key1, key2 = jax.random.split(key)
            self.conv = eqx.nn.Conv2d(3, 32, 3, padding=1, key=key1)
            self.norm = BatchNorm(32)
            self.dropout = eqx.nn.Dropout(0.1)
            self.linear = eqx.nn.Linear(32, 4, key=key2)

        def __call__(self, x, state, *, key=None):
            x, state = self.norm(self.conv(x), state)
            x = self.dropout(jax.nn.relu(x).mean((1, 2)), key=key)
            return self.linear(x), state

    rng = np.random.default_rng(0)

    def split(n):
        images = rng.integers(0, 256, (n, 8, 8, 3), np.uint8)
        return Split(images, rng.integers(0, 4, n, np.int32))

    dataset = Dataset("noise", tuple("abcd"), split(64), split(16), None, True)
    config = TrainConfig(epochs=epochs, batch_size=16, mixup=0.4)
    model, state = eqx.nn.make_with_state(Net)(jax.random.key(0))
    if save_all:
        _train._MOST_TIME_SAVING = 1.0
    said = False

    def say(progress):
        nonlocal said
        if not said:
            print("training", flush=True)
        said = True

    mesh = make_mesh(1)
    hooks = Hooks(on_progress=say)
    train_run_with(run, dataset, model, state, config, mesh=mesh, hooks=hooks)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def rows(run: Path) -> int:
    path = run / "log.tsv"
    return max(path.read_bytes().count(b"\n") - 1, 0) if path.exists() else 0


def log(run: Path) -> list[list[str]]:
    lines = [line.split("\t") for line in (run / "log.tsv").read_text().splitlines()]
    kept = [i for i, column in enumerate(lines[0]) if column not in TIMES]
    return [[line[i] for i in kept] for line in lines]


if __name__ == "__main__":
    sys.exit(main())

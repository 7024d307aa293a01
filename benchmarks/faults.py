"""Kill runs and sweeps at random moments, start them again, and look for differences.

A run that was killed must end with the same bytes in its checkpoints, and the same log
but for its columns of times, as one that was left alone. A sweep that was killed
halfway must have computed each run once: every epoch in its log once, started anew
never; and its table must be what pandas makes of the logs.

    python -m benchmarks faults --kills 20
    python -m benchmarks faults --only run --kills 4 --epochs 40 --unkept    # a minute
"""

import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from eqcifar.storage import Run, find_runs

from .shared import Row, parser, row, store

TIMES = "seconds", "images_per_s"
EPOCHS, RUNS = 2, 12
SWEEP = (
    *("--dataset", "synthetic", "--limit-train", "500", "--limit-test", "100"),
    *("--arch", "resnet8,wrn10-1", "--mixup", "0,0.4", "--seeds", "0-2"),
    *("--width", "0.5", "--epochs", str(EPOCHS), "--batch-size", "50", "--lr", "0.1"),
)
METRICS = "loss", "acc_tr", "acc_te", "weight_norm"
PROGRAM = sys.executable, "-m", "eqcifar_cli"


def main(argv: list[str]):
    """Kill, resume, compare and store."""
    options = parser(__doc__)
    options.add_argument("--only", default="", choices=("", "run", "sweep"))
    options.add_argument("--kills", type=int, default=20)
    options.add_argument("--epochs", type=int, default=400, help="of the run")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--jobs", type=int, default=2, help="of the sweep")
    options.add_argument("--unkept", action="store_true", help="store nothing")
    options.add_argument("--worker", type=Path, help="train the run in this folder")
    options.add_argument("--save-all", action="store_true", help="after every epoch")
    args = options.parse_args(argv)
    if args.worker:
        work(args.worker, args.epochs, args.save_all)
        return
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        if args.only != "sweep":
            rows += of_a_run(Path(folder), args.kills, args.epochs, args.seed)
        if args.only != "run":
            rows += of_a_sweep(Path(folder) / "results", args.jobs)
    if args.unkept:
        print(*rows, sep="\n")
    else:
        store("faults", rows)


def of_a_run(folder: Path, kills: int, epochs: int, seed: int) -> list[Row]:
    """Kill a run again and again."""
    alone, killed = folder / "alone", folder / "killed"
    process = start(alone, epochs)
    wait_until_training(process)
    began = time.perf_counter()
    finish(process)
    seconds = time.perf_counter() - began
    rng, met, within = random.Random(seed), 0, 0
    # Spread over the run by the rows of its log, then at any moment of an epoch.
    for least in sorted(rng.choices(range(epochs - 5), k=kills)):
        # Half of them with a checkpoint after each epoch, so that kills meet writes.
        process = start(killed, epochs, save_all=met % 2 == 0)
        wait_until_training(process)
        while logged(killed) < least and process.poll() is None:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 2 * seconds / epochs))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if process.returncode == -signal.SIGKILL:
            met += 1
            within += bool([*killed.glob(".tmp-*")])
    finish(start(killed, epochs))
    assert met == kills, f"the run ended after {met} of {kills} kills"
    names = [p.name for p in sorted(alone.iterdir()) if p.stem in ("last", "model")]
    assert len(names) == 2, names
    same = [digest(alone / name) == digest(killed / name) for name in names]
    same.append(log(alone) == log(killed))
    assert all(same), dict(zip([*names, "log.tsv"], same, strict=True))
    what = f"SIGKILL in a run of {epochs} epochs, resumed"
    return [
        row(what, "kills", met),
        row(what, "while a file was written", within),
        row(what, f"files identical, of {len(same)}", sum(same)),
    ]


def start(run: Path, epochs: int, save_all: bool = False) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks", "faults"]
    command += ["--worker", str(run), "--epochs", str(epochs)]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(run.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(
        command + ["--save-all"] * save_all,
        cwd=Path(__file__).parent.parent,
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
    """Train a small network in a folder, or go on with it."""
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


def logged(run: Path) -> int:
    path = run / "log.tsv"
    return max(path.read_bytes().count(b"\n") - 1, 0) if path.exists() else 0


def log(run: Path) -> list[list[str]]:
    lines = [line.split("\t") for line in (run / "log.tsv").read_text().splitlines()]
    kept = [i for i, column in enumerate(lines[0]) if column not in TIMES]
    return [[line[i] for i in kept] for line in lines]


def of_a_sweep(out: Path, jobs: int) -> list[Row]:
    """Kill a sweep when half of its runs are done and one is midway."""
    command = [*PROGRAM, "sweep", *SWEEP, "--jobs", str(jobs), "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    while sum(run.is_done() for run in runs(out)) < RUNS // 2 or not midway(out):
        if process.poll() is not None:
            raise SystemExit("the sweep ended before it could be killed")
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = [run.path for run in runs(out) if run.is_done()]
    models = {p: p.stat().st_mtime_ns for path in done for p in path.glob("model.*")}
    second = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    third = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    assert [second.returncode, third.returncode] == [0, 0]
    assert third.stdout.endswith(f"\n{RUNS} finished before\n"), third.stdout
    assert all(path.stat().st_mtime_ns == at for path, at in models.items())
    once = [
        run.is_done()
        and [r["epoch"] for r in run.log()] == list(range(1, EPOCHS + 1))
        and (run.path / "run.log").read_text().count("Training: ") == 1
        for run in runs(out)
    ]
    assert len(once) == RUNS
    assert all(once), once
    what = "SIGKILL in a sweep, started again"
    worst = table(out)
    assert worst < 1e-12, worst
    return [
        row(what, "kills", 1),
        row(what, f"runs computed once, of {RUNS}", sum(once)),
        row(what, "table against pandas, relative", worst),
    ]


def table(out: Path) -> float:
    """The largest relative difference of means and deviations from pandas' own."""
    import pandas as pd

    rows = []
    for path in out.glob("**/log.tsv"):
        config = json.loads((path.parent / "config.json").read_text())["config"]
        last = pd.read_csv(path, sep="\t").iloc[-1]
        fields = {"arch": config["arch"], "mixup": config["mixup"]}
        rows += [{**fields, "metric": name, "value": last[name]} for name in METRICS]
    grouped = pd.DataFrame(rows).groupby(["arch", "mixup", "metric"])["value"]
    expected = pd.DataFrame(grouped.agg(["mean", "std"])).sort_index()
    worst = []
    for form in ("tsv", "csv", "json"):
        command = [*PROGRAM, "tabulate", str(out), "--metric", ",".join(METRICS)]
        command += ["--format", form]
        text = subprocess.run(
            command, capture_output=True, check=True, text=True
        ).stdout
        frame = (
            pd.DataFrame(json.loads(text)["rows"])
            if form == "json"
            else pd.read_csv(io.StringIO(text), sep="\t" if form == "tsv" else ",")
        )
        found = frame.set_index(["arch", "mixup", "metric"]).sort_index()
        assert set(found["count"]) == {3}
        assert found.index.equals(expected.index), form
        difference = (found[["mean", "std"]] - expected).abs()
        worst.append(difference.div(expected["mean"].abs(), axis=0).to_numpy().max())
    return float(max(worst))


def runs(out: Path) -> list[Run]:
    return find_runs(out) if out.exists() else []


def midway(out: Path) -> bool:
    return any(0 < len(run.log()) < EPOCHS for run in runs(out))

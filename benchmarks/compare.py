"""The library and PyTorch side by side: training step and evaluation, as ratios.

Each side is a process of its own that lives through the comparison; they take turns,
so that a machine that slows down slows down all of them, and one computes at a time.
Before the clock: the same weights on the same batch give the same loss and gradient.

    python -m benchmarks.compare                                  # CPU
    python -m benchmarks.compare --precision bf16 --batch 1000    # GPU
    python -m benchmarks.compare --tiny       # a GPU's ways, small enough for a CPU

The result is written after each network, in place of an earlier one of all.

On a GPU a turn is whole epochs of 50,000 images, one call each here; on the CPU as
many single steps as take about `--seconds`.
"""

import argparse
import math
import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np

from .remote import Remote
from .speed import Case, spread

OURS = "eqcifar"
# Relative differences of the gradient, as a vector, that rounding accounts for. PyTorch
# in channels_last is up to 8e-3 away from itself in NCHW and from ours, which agree to
# 1e-6 to 1e-3. In bfloat16, ours and PyTorch's are as far from float32 as each other,
# 0.2 to 0.4 at 16 to 64 images: see docs/speed.md.
TOLERANCES = {"f32": 2e-2, "bf16": 0.3}


def make_side(name: str, case: Case) -> Any:
    """One side, in its own process."""
    if name == OURS:
        from .subject import Subject

        return Subject(case)
    from .peers.torch_speed import TorchSubject

    return TorchSubject(case, name)


class Side:
    """One side of the comparison, seen from outside."""

    def __init__(self, name: str, case: Case):
        self.name, self.case = name, case
        remote = Remote(make_side, name, case)
        self.call, self.stop = remote.call, remote.stop
        self.calls: dict[str, int] = {}

    def warm_up(self, kind: str, seconds: float):
        """Find out how many calls fill a turn, after one."""
        self.call(kind, 1)
        self.calls[kind] = math.ceil(seconds / self.call(kind, 1))

    def rate(self, kind: str) -> float:
        """Images a second in one turn."""
        # The other's threads may still be waiting for work.
        time.sleep(0.3)
        case, calls = self.case, self.calls[kind]
        images = case.batch * case.steps if kind == "train" else case.evaluated
        return images * calls / self.call(kind, calls)


def check(sides: list[Side]) -> dict[str, dict[str, float]]:
    """Relative differences of each peer's first loss and gradient from ours."""
    ours, *peers = sides
    before = ours.call("weights")
    loss, after = ours.call("first_step")
    gradient = _flat(after) - _flat(before)
    found = {}
    for peer in peers:
        peer.call("set_weights", before)
        its_loss, its_after = peer.call("first_step")
        difference = _flat(its_after) - _flat(before) - gradient
        found[peer.name] = {
            "loss": abs(its_loss - loss) / abs(loss),
            "gradient": float(np.linalg.norm(difference) / np.linalg.norm(gradient)),
        }
    return found


def _flat(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([array.ravel() for array in arrays]).astype(np.float64)


def compare(case: Case, peers: Sequence[str], rounds: int, seconds: float) -> dict:
    sides = [Side(name, case) for name in (OURS, *peers)]
    try:
        differences = check(sides)
        worst = max(found["gradient"] for found in differences.values())
        assert worst < TOLERANCES[case.precision], differences
        sides[0].call("compile")
        kinds = ("train", "predict")
        for side in sides:
            for kind in kinds:
                side.warm_up(kind, seconds)
        rates: dict[str, dict[str, list[float]]]
        rates = {kind: {side.name: [] for side in sides} for kind in kinds}
        for _ in range(rounds):
            for kind in kinds:
                for side in sides:
                    rates[kind][side.name].append(side.rate(kind))
        memory = {side.name: side.call("about") for side in sides}
    finally:
        for side in sides:
            side.stop()
    return {
        "arch": case.arch,
        "batch": case.batch,
        "precision": case.precision,
        "steps_per_call": case.steps,
        "differences": differences,
        **{kind: _ratios(rates[kind]) for kind in kinds},
        "about": memory,
    }


def _ratios(rates: dict[str, list[float]]) -> dict[str, Any]:
    """Images a second of all, and ours as a multiple of each peer's."""
    ours = rates[OURS]
    result: dict[str, Any] = {
        "images_per_second": {name: spread(values) for name, values in rates.items()},
        "ratio": {},
    }
    for name, values in rates.items():
        if name != OURS:
            rounds = spread([a / b for a, b in zip(ours, values, strict=True)])
            median = float(np.median(ours) / np.median(values))
            result["ratio"][name] = {**rounds, "median": median}
    return result


def show(row: dict[str, Any]):
    for kind in ("train", "predict"):
        rates = row[kind]["images_per_second"]
        line = f"{row['arch']:9} {kind:8} {OURS} {rates[OURS]['median']:8.1f} images/s"
        for name, ratio in row[kind]["ratio"].items():
            line += (
                f"   {name} {rates[name]['median']:8.1f}: {ratio['median']:.2f} x "
                f"({ratio['low']:.2f} to {ratio['high']:.2f})"
            )
        print(line, flush=True)
    for name, found in row["differences"].items():
        print(
            f"{row['arch']:9} first step against {name}: loss {found['loss']:.1e}, "
            f"gradient {found['gradient']:.1e} relative",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--archs", default="resnet18,resnet20,wrn16-4,vgg")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--precision", default="f32", choices=("f32", "bf16"))
    parser.add_argument("--peers", default="", help="of channels_last, nchw, compile")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a turn")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--machine", default="", help="ends the name of the result")
    args = parser.parse_args()
    on_gpu = os.path.exists("/dev/nvidia0")
    if on_gpu:
        # All sides hold memory at once.
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.4")
    images, evaluated, steps = 1024, 1000, 1
    if on_gpu:
        images, evaluated, steps = 50_000, 10_000, 50_000 // args.batch
    if args.tiny:
        args.archs, args.batch, args.precision = "resnet8", 16, "bf16"
        args.peers, args.seconds = args.peers or "channels_last,compile", 0.1
        images, evaluated, steps = 64, 64, 4
    default = "channels_last,compile" if on_gpu else "channels_last,nchw"
    peers = (args.peers or default).split(",")
    rows = []
    for arch in args.archs.split(","):
        size = max(images, args.batch)
        case = Case(arch, args.batch, args.precision, size, evaluated, steps)
        rows.append(compare(case, peers, args.rounds, args.seconds))
        show(rows[-1])
        if not args.tiny:
            # As soon as there is one, for a check of the next may fail.
            keep(rows, args, "gpu" if on_gpu else "cpu")


def keep(rows: list[dict[str, Any]], args: argparse.Namespace, device: str):
    """Write the result, in a process of its own, which starts JAX for that."""
    record = {
        "load_average": os.getloadavg()[0],
        "arguments": {"rounds": args.rounds, "seconds": args.seconds},
        "rows": rows,
    }
    name = f"compare_{device}_{args.precision}_{args.batch}"
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        pool.submit(_store, name, record, args.machine).result()


def _store(*arguments: Any):
    # PyTorch's processes import this file too, and are to be without JAX.
    from .records import store

    store(*arguments)


if __name__ == "__main__":
    main()

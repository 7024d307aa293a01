"""Every convolution of the networks, here and in PyTorch, and what they leave to gain.

Each shape once: forward and the gradients of images and of weights, the two sides in
turns, answers compared first. What a network's convolutions take by themselves bounds
its training step: it cannot be quicker than they are. `benchmarks.compare` has to have
run before, for PyTorch's whole step.

Both sides keep the memory that they free, as a step does within itself: else up to two
thirds of the time of one convolution by itself go to new pages.

    python -m benchmarks.convolutions
    python -m benchmarks.convolutions --archs resnet8 --batch 8 --tiny      # seconds
"""

import argparse
import math
import os
import time
from collections import Counter
from typing import Any

import numpy as np

from .compare import OURS
from .remote import Remote
from .speed import Convolution, spread

PEER = "channels_last"
KINDS = "forward", "images", "weights"
# Relative, as vectors.
TOLERANCE = 1e-3
KEEP_MEMORY = {
    "GLIBC_TUNABLES": "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184"
}


def make_side(name: str, batch: int) -> Any:
    """One side, in its own process."""
    if name == OURS:
        from .convolve import Convolutions

        return Convolutions(batch)
    from .peers.torch_convolve import TorchConvolutions

    return TorchConvolutions(batch)


def measure(
    sides: dict[str, Remote], shape: Convolution, rounds: int, seconds: float
) -> dict[str, Any]:
    """The milliseconds of one convolution on each side, after a comparison."""
    ours, theirs = (side.call("prepare", shape) for side in sides.values())
    differences = {kind: _difference(theirs[kind], ours[kind]) for kind in KINDS}
    assert max(differences.values()) < TOLERANCE, (shape, differences)
    calls: dict[tuple[str, str], int] = {}
    for name, side in sides.items():
        time.sleep(0.2)
        for kind in KINDS:
            side.call("seconds", kind, 1)
            calls[name, kind] = math.ceil(seconds / side.call("seconds", kind, 1))
    times: dict[str, dict[str, list[float]]]
    times = {name: {kind: [] for kind in KINDS} for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            # The other's threads may still be waiting for work.
            time.sleep(0.2)
            for kind in KINDS:
                count = calls[name, kind]
                found = side.call("seconds", kind, count) / count
                times[name][kind].append(1e3 * found)
    return {
        "shape": shape._asdict(),
        "differences": differences,
        "ms": {
            name: {kind: spread(values) for kind, values in kinds.items()}
            for name, kinds in times.items()
        },
    }


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def in_a_step(
    counts: Counter[Convolution], rows: dict[Convolution, dict], name: str
) -> dict[str, float]:
    """Milliseconds that all convolutions of a step take, by kind."""
    total: dict[str, float] = {kind: 0.0 for kind in KINDS}
    for shape, count in counts.items():
        for kind in KINDS:
            # Nobody asks for the gradient of the pixels.
            if kind != "images" or shape.in_channels != 3:
                total[kind] += count * rows[shape]["ms"][name][kind]["median"]
    return total


def summary(
    arch: str,
    shapes: list[Convolution],
    rows: dict[Convolution, dict],
    step: dict[str, float],
) -> dict[str, Any]:
    """The convolutions of a network beside PyTorch's whole step, in milliseconds."""
    counts = Counter(shapes)
    kinds = {name: in_a_step(counts, rows, name) for name in (OURS, PEER)}
    total = {name: sum(found.values()) for name, found in kinds.items()}
    result = {
        "arch": arch,
        "convolutions": [
            {**shape._asdict(), "count": n} for shape, n in counts.items()
        ],
        "ms_by_kind": kinds,
        "ms": total,
        "ratio": total[PEER] / total[OURS],
    }
    if step:
        result |= {"step_ms": step, "bound": step[PEER] / total[OURS]}
    return result


def whole_steps(batch: int, machine: str) -> dict[str, dict[str, float]]:
    """Milliseconds of the training steps that `benchmarks.compare` stored."""
    from .records import read

    found = read(f"compare_cpu_f32_{batch}", machine)
    return {
        row["arch"]: {
            name: 1e3 * batch / rate["median"]
            for name, rate in row["train"]["images_per_second"].items()
        }
        for row in found.get("rows", [])
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--archs", default="resnet18,resnet20,wrn16-4,vgg")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.06, help="of a turn")
    parser.add_argument("--machine", default="", help="as given to compare")
    parser.add_argument("--tiny", action="store_true", help="store nothing")
    args = parser.parse_args()
    sides = {
        name: Remote(make_side, name, args.batch, variables=KEEP_MEMORY)
        for name in (OURS, PEER)
    }
    try:
        networks: dict[str, list[Convolution]] = {}
        for arch in args.archs.split(","):
            networks[arch], theirs = (
                side.call("shapes", arch) for side in sides.values()
            )
            assert Counter(networks[arch]) == Counter(theirs), (networks[arch], theirs)
        distinct = dict.fromkeys(
            shape for found in networks.values() for shape in found
        )
        rows: dict[Convolution, dict] = {}
        for shape in distinct:
            rows[shape] = measure(sides, shape, args.rounds, args.seconds)
            medians = {
                name: " / ".join(f"{kinds[kind]['median']:6.2f}" for kind in KINDS)
                for name, kinds in rows[shape]["ms"].items()
            }
            print(
                "{in_channels:4} -> {out_channels:4}, {size:2}x{size:2}, kernel "
                "{kernel}, stride {stride}:".format(**shape._asdict()),
                *(f"{name} {ms} ms  " for name, ms in medians.items()),
                flush=True,
            )
    finally:
        for side in sides.values():
            side.stop()
    steps = whole_steps(args.batch, args.machine)
    found = [
        summary(arch, shapes, rows, steps.get(arch, {}))
        for arch, shapes in networks.items()
    ]
    for row in found:
        print(
            f"{row['arch']:9} all convolutions of a step: {row['ms'][OURS]:.0f} ms, "
            f"{PEER} {row['ms'][PEER]:.0f} ms; bound {row.get('bound', math.nan):.2f}",
            flush=True,
        )
    if args.tiny:
        return
    from .records import store

    store(
        "convolutions",
        {
            "load_average": os.getloadavg()[0],
            "arguments": {
                "batch": args.batch,
                "rounds": args.rounds,
                "seconds": args.seconds,
            },
            "archs": found,
            "rows": list(rows.values()),
        },
        args.machine,
    )


if __name__ == "__main__":
    main()

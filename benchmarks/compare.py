"""Speed of training and evaluation beside PyTorch, as ratios.

Each side is a process of its own that lives through the comparison; they take turns.
Before the clock: the same weights on the same batch give the same loss and gradient.
On a GPU a turn is whole epochs of 50,000 images, one call each here; on a CPU as many
single steps as take about `--seconds`.

    python -m benchmarks compare                                  # on a CPU
    python -m benchmarks compare --torch ENVIRONMENT/bin/python   # that has PyTorch
    python -m benchmarks compare --precision bf16 --batch 1000    # on a GPU
    python -m benchmarks compare --tiny                           # seconds; not kept
"""

import os
import subprocess

import numpy as np

from .shared import Row, parser, row, spread, store
from .sides import OURS, Case, Side

# Relative differences of the gradient, as a vector, that rounding accounts for. PyTorch
# in channels_last is up to 8e-3 away from itself in NCHW and from ours, which agree to
# 1e-6 to 1e-3. In bfloat16, ours and PyTorch's are as far from float32 as each other,
# 0.2 to 0.4 at 16 to 64 images.
TOLERANCES = {"f32": 2e-2, "bf16": 0.3}
WORDS = {"train": "training", "predict": "evaluation"}


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


def compare(
    case: Case, peers: list[str], torch: str, rounds: int, seconds: float
) -> list[Row]:
    """Images a second of all, and ours as a multiple of each peer's."""
    sides = [Side(OURS, case), *(Side(name, case, torch) for name in peers)]
    try:
        differences = check(sides)
        worst = max(found["gradient"] for found in differences.values())
        assert worst < TOLERANCES[case.precision], differences
        sides[0].call("compile")
        for side in sides:
            for kind in WORDS:
                side.warm_up(kind, seconds)
        rates = {kind: {side.name: [] for side in sides} for kind in WORDS}
        for _ in range(rounds):
            for kind in WORDS:
                for side in sides:
                    rates[kind][side.name].append(side.rate(kind))
    finally:
        for side in sides:
            side.stop()
    rows = []
    for kind, word in WORDS.items():
        ours = rates[kind][OURS]
        for name in peers:
            theirs = rates[kind][name]
            what = f"{case.arch}, {word}, PyTorch {name}"
            each = [a / b for a, b in zip(ours, theirs, strict=True)]
            ratio = float(np.median(ours) / np.median(theirs))
            rows += [
                spread(what, "eqcifar, images/s", ours),
                spread(what, "PyTorch, images/s", theirs),
                row(what, "ratio", ratio, min(each), max(each), rounds),
            ]
            if kind == "train":
                apart = differences[name]["gradient"]
                rows.append(row(what, "first gradient apart, relative", apart))
    return rows


def main(argv: list[str]):
    """Compare, network by network."""
    options = parser(__doc__)
    options.add_argument("--archs", default="resnet18,resnet20,wrn16-4,vgg")
    options.add_argument("--batch", type=int, default=128)
    options.add_argument("--precision", default="f32", choices=("f32", "bf16"))
    options.add_argument("--peers", default="", help="of channels_last, nchw, compile")
    options.add_argument("--torch", default="", help="a Python with PyTorch")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--seconds", type=float, default=2.0, help="of a turn")
    options.add_argument("--tiny", action="store_true")
    args = options.parse_args(argv)
    on_gpu = os.path.exists("/dev/nvidia0")
    if on_gpu:
        # All sides hold memory at once.
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.4")
    images, evaluated, steps = 1024, 1000, 1
    if on_gpu:
        images, evaluated, steps = 50_000, 10_000, 50_000 // args.batch
    if args.tiny:
        args.archs, args.batch, args.seconds = "resnet8", 16, 0.1
        images, evaluated, steps = 64, 64, 4
    default = "channels_last,compile" if on_gpu else "channels_last"
    peers = str(args.peers or default).split(",")
    about = {"batch": args.batch, "precision": args.precision}
    about |= {"PyTorch": torch_version(args.torch)}
    for arch in args.archs.split(","):
        size = max(images, args.batch)
        case = Case(arch, args.batch, args.precision, size, evaluated, steps)
        rows = compare(case, peers, args.torch, args.rounds, args.seconds)
        if args.tiny:
            print(*rows, sep="\n")
        else:
            store(f"compare_{'gpu' if on_gpu else 'cpu'}", rows, **about)


def torch_version(python: str) -> str:
    """The version that the peer's Python has."""
    code = "import importlib.metadata as m; print(m.version('torch'))"
    command = [python or "python", "-c", code]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()

r"""What each thing that makes networks quick on CPUs is worth.

The library as it is beside itself with one thing taken away or changed, and beside
PyTorch where a Python that has it is named, in processes that take turns. Before the
clock each takes two steps, which move the parameters alike. Ratios are of times to
those of the library as it is: above 1, what was taken away is worth having. The seconds
that processors spend are steadier than those that pass where a machine has other work.

    python -m benchmarks cpu_ablation --torch ENVIRONMENT/bin/python
    python -m benchmarks cpu_ablation --cases resnet8:16 --rounds 1 --tiny    # a minute
"""

import os
import random
from unittest import mock

import numpy as np

from .shared import Row, parser, spread, store
from .sides import OURS, Case, Side

AS_IS, TORCH = "as it is", "PyTorch channels_last"
KINDS = {"train": "step", "predict": "evaluation"}
_YNNPACK = """
from eqcifar import parallel
parallel._CPU_OPTIONS.pop("xla_cpu_experimental_ynn_fusion_type")
"""
_EARLY = """
from eqcifar import parallel
parallel._CPU_OPTIONS.pop("xla_disable_hlo_passes")
"""
_NO_BARRIERS = """
from eqcifar.models import _conv2d
_conv2d._materialise = lambda x: x
"""
# What a process does before a network is made.
CHANGES = {
    AS_IS: "",
    "convolutions by YNNPACK": _YNNPACK,
    "barriers end before fusion": _EARLY,
    "no barriers round convolutions": _NO_BARRIERS,
    "nothing of all": _YNNPACK + _EARLY + _NO_BARRIERS,
}
_CLOCK = """
import time
from {} import {} as Made
Made.spent = lambda self: time.process_time()
"""
_OURS = _CLOCK.format("benchmarks.subject", "MeasuredNetwork")
_THEIRS = _CLOCK.format("benchmarks.peers.torch_speed", "TorchSubject")
# Relative, as vectors.
TOLERANCE = 2e-2


def two_steps(side: Side) -> np.ndarray:
    """How two steps move the parameters; the first has a learning rate of 0."""
    side.call("compile")
    before = side.call("weights")
    side.call("train", 2)
    after = side.call("weights")
    return np.concatenate([(b - a).ravel() for a, b in zip(before, after, strict=True)])


def turn(side: Side, kind: str) -> tuple[float, float]:
    """The seconds of one turn: those that passed, and those of all processors."""
    before = side.call("spent")
    passed = side.call(kind, 1)
    return passed, side.call("spent") - before


def measure(case: Case, names: list[str], torch: str, rounds: int) -> list[Row]:
    """Seconds of a network as it is, and the ratios of all others to them."""
    sides: dict[str, Side] = {}
    times: dict[tuple[str, str], list[tuple[float, float]]] = {}
    try:
        expected = np.zeros(0)
        for name in names:
            sides[name] = side = Side(OURS, case, prelude=CHANGES[name] + _OURS)
            moved = two_steps(side)
            expected = moved if name == AS_IS else expected
            difference = np.linalg.norm(moved - expected) / np.linalg.norm(expected)
            assert difference < TOLERANCE, (name, difference)
        if torch:
            # Its threads spin while they wait, which would count as work.
            with mock.patch.dict(os.environ, {"GOMP_SPINCOUNT": "0"}):
                sides[TORCH] = Side("channels_last", case, torch, _THEIRS)
            sides[TORCH].call("set_weights", sides[AS_IS].call("weights"))
        for kind in KINDS:
            for side in sides.values():
                turn(side, kind)
            for round in range(rounds):
                # Whoever goes first after a pause is slower.
                order = [*sides.items()]
                random.Random(round).shuffle(order)
                for name, side in order:
                    times.setdefault((kind, name), []).append(turn(side, kind))
    finally:
        for side in sides.values():
            side.stop()
    rows = []
    for (kind, name), spent in times.items():
        what = f"{case.arch}, batch {case.batch}, {KINDS[kind]}, {name}"
        for i, unit in enumerate(("time", "processors' time")):
            if name == AS_IS:
                rows.append(spread(what, f"{unit}, s", [each[i] for each in spent]))
            else:
                pairs = zip(spent, times[kind, AS_IS], strict=True)
                rows.append(
                    spread(what, f"{unit}, ratio", [a[i] / b[i] for a, b in pairs])
                )
    return rows


def main(argv: list[str]):
    """Measure, network by network."""
    options = parser(__doc__)
    options.add_argument("--cases", default="resnet18:64,resnet20:128")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--torch", default="", help="a Python with PyTorch")
    options.add_argument("--variants", default="", help="some, separated by commas")
    options.add_argument("--tiny", action="store_true", help="store nothing")
    args = options.parse_args(argv)
    names = [AS_IS, *args.variants.split(",")] if args.variants else [*CHANGES]
    for name in args.cases.split(","):
        arch, _, batch = name.partition(":")
        case = Case(arch, int(batch), images=1024, evaluated=512)
        rows = measure(case, names, args.torch, args.rounds)
        if args.tiny:
            print(*rows, sep="\n")
        else:
            store("cpu_ablation", rows)

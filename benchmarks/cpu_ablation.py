r"""What each thing that makes networks quick on CPUs is worth, beside PyTorch.

The library as it is beside itself with one thing taken away, and beside PyTorch where a
Python that has it is named. Each is a process of its own; they take turns, and before
the clock every one takes two steps that move the parameters alike. Ratios are of times
to those of the library as it is: above 1, what was taken away is worth having. Beside
other work the seconds that processors spend are steadier than those that pass.

    python -m benchmarks.cpu_ablation
    python -m benchmarks.cpu_ablation --torch ENVIRONMENT/bin/python
    python -m benchmarks.cpu_ablation --cases resnet8:16 --rounds 1 --tiny   # a minute
"""

import argparse
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from .speed import Case, spread

AS_IS, TORCH = "as it is", "PyTorch channels_last"
_OPTIONS = """
from eqcifar import parallel
parallel._CPU_OPTIONS.pop("xla_cpu_experimental_ynn_fusion_type")
"""
_EXPANDER = """
from eqcifar import parallel
parallel._CPU_OPTIONS.pop("xla_disable_hlo_passes")
"""
_BARRIERS = """
from eqcifar.models import _conv2d
_conv2d._materialise = lambda x: x
"""
_PLAIN = """
from eqcifar.models import _conv2d
from jax import lax
_conv2d.convolve_3x3 = lambda x, weight: lax.conv_general_dilated(
    x[None], weight, (1, 1), [(1, 1)] * 2, dimension_numbers=("NHWC", "OIHW", "NHWC")
)[0]
"""
_PAIR = """
from eqcifar.models import _batch_norm
import jax.numpy as jnp
_batch_norm.pair_sums = lambda a, b, axis: [
    jnp.sum(x, [i for i in range(x.ndim) if i != axis % x.ndim]) for x in (a, b)
]
_batch_norm.pair_spread = lambda a, b, like, axis: [
    jnp.expand_dims(x, [i for i in range(like.ndim) if i != axis % like.ndim])
    for x in (a, b)
]
"""
# What is done in the process before a network is made.
CHANGES = {
    AS_IS: "",
    "convolutions by YNNPACK": _OPTIONS,
    "barriers end before fusion": _EXPANDER,
    "no barriers round convolutions": _BARRIERS,
    "no barriers within Winograd": """
from types import SimpleNamespace
from eqcifar.models import _winograd
_winograd.lax = SimpleNamespace(**vars(_winograd.lax))
_winograd.lax.optimization_barrier = lambda x: x
""",
    "no barriers at all": _BARRIERS
    + """
from types import SimpleNamespace
from eqcifar.models import _winograd
_winograd.lax = SimpleNamespace(**vars(_winograd.lax))
_winograd.lax.optimization_barrier = lambda x: x
""",
    "no Winograd": """
from eqcifar.models import _convolve_3x3
_convolve_3x3._FEWEST_CHANNELS = 10**6
""",
    "Winograd from 16": """
from eqcifar.models import _convolve_3x3
_convolve_3x3._FEWEST_CHANNELS = 16
""",
    "JAX's own convolutions": _PLAIN,
    "JAX's own sums": _PAIR,
    "nothing of all": _OPTIONS + _EXPANDER + _BARRIERS + _PLAIN + _PAIR,
}
# Relative, as vectors.
TOLERANCE = 2e-2

_SERVE = """
import pickle, sys, time
case = pickle.load(sys.stdin.buffer)
from benchmarks.speed import Case
from {module} import {name} as Side
side = Side(Case(**case){form})
while call := pickle.load(sys.stdin.buffer):
    method, *arguments = call
    spent = time.process_time()
    result = getattr(side, method)(*arguments)
    pickle.dump((result, time.process_time() - spent), sys.stdout.buffer)
    sys.stdout.buffer.flush()
"""
_OURS = _SERVE.format(module="benchmarks.subject", name="Subject", form="")
_THEIRS = _SERVE.format(
    module="benchmarks.peers.torch_speed",
    name="TorchSubject",
    form=", 'channels_last'",
)


class Side:
    """A training step and an evaluation in a process of their own."""

    def __init__(self, case: Case, python: str, program: str):
        root = Path(__file__).parent.parent
        self._process = subprocess.Popen(
            [python, "-c", program],
            cwd=root,
            # PyTorch's threads spin while they wait, which would count as work.
            env={**os.environ, "PYTHONPATH": str(root), "GOMP_SPINCOUNT": "0"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._send(
            {
                "arch": case.arch,
                "batch": case.batch,
                "images": case.images,
                "evaluated": case.evaluated,
            }
        )

    def call(self, method: str, *arguments: Any) -> Any:
        """What the side's method returns."""
        return self._ask(method, *arguments)[0]

    def spend(self, method: str) -> tuple[float, float]:
        """The seconds of a call, and those of all processors in it."""
        return self._ask(method, 1)

    def _ask(self, *call: Any) -> Any:
        self._send(call)
        assert self._process.stdout is not None
        return pickle.load(self._process.stdout)

    def stop(self):
        """End the process."""
        self._send(None)
        self._process.wait()

    def _send(self, what: Any):
        assert self._process.stdin is not None
        pickle.dump(what, self._process.stdin)
        self._process.stdin.flush()


def two_steps(side: Side) -> np.ndarray:
    """How two steps move the parameters; the first has a learning rate of 0."""
    side.call("compile")
    before = side.call("weights")
    side.call("train", 2)
    after = side.call("weights")
    moved = [b - a for a, b in zip(before, after, strict=True)]
    return np.concatenate([each.ravel() for each in moved])


def measure(case: Case, names: list[str], torch: str, rounds: int) -> dict[str, Any]:
    """Seconds of all sides, and their ratios to the library's as it is."""
    sides: dict[str, Side] = {}
    differences: dict[str, float] = {}
    spent: dict[str, dict[str, list[tuple[float, float]]]]
    spent = {"train": {}, "predict": {}}
    try:
        expected = np.zeros(0)
        for name in names:
            sides[name] = side = Side(case, sys.executable, CHANGES[name] + _OURS)
            moved = two_steps(side)
            expected = moved if name == AS_IS else expected
            difference = np.linalg.norm(moved - expected) / np.linalg.norm(expected)
            assert difference < TOLERANCE, (name, difference)
            differences[name] = float(difference)
        if torch:
            sides[TORCH] = Side(case, torch, _THEIRS)
            sides[TORCH].call("set_weights", sides[AS_IS].call("weights"))
        for method, found in spent.items():
            for name, side in sides.items():
                side.spend(method)
                found[name] = []
            for _ in range(rounds):
                for name, side in sides.items():
                    # Another's threads may still be waiting for work.
                    time.sleep(0.2)
                    found[name].append(side.spend(method))
    finally:
        for side in sides.values():
            side.stop()
    return {
        "arch": case.arch,
        "batch": case.batch,
        "evaluated": case.evaluated,
        "differences": differences,
        "seconds": {
            method: {
                name: {"passed": spread(passed), "processors": spread(processors)}
                for name, values in found.items()
                for passed, processors in [zip(*values, strict=True)]
            }
            for method, found in spent.items()
        },
        "ratio": {
            method: {
                name: {
                    what: spread(
                        [a[i] / b[i] for a, b in zip(values, found[AS_IS], strict=True)]
                    )
                    for i, what in enumerate(("passed", "processors"))
                }
                for name, values in found.items()
                if name != AS_IS
            }
            for method, found in spent.items()
        },
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", default="resnet18:64,resnet20:128")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--torch", default="", help="a Python with PyTorch")
    parser.add_argument("--variants", help="some, separated by commas; else all")
    parser.add_argument("--tiny", action="store_true", help="store nothing")
    args = parser.parse_args()
    names = [AS_IS, *args.variants.split(",")] if args.variants else [*CHANGES]
    rows = []
    for name in args.cases.split(","):
        arch, _, batch = name.partition(":")
        case = Case(arch, int(batch), images=1024, evaluated=512)
        row = measure(case, names, args.torch, args.rounds)
        rows.append(row)
        for method, ratios in row["ratio"].items():
            base = row["seconds"][method][AS_IS]["passed"]["median"]
            print(f"{name} {method}: {1e3 * base:.0f} ms as it is")
            for variant, found in ratios.items():
                shown = "  ".join(
                    f"{what} {value['median']:5.2f} ({value['low']:.2f} to "
                    f"{value['high']:.2f})"
                    for what, value in found.items()
                )
                print(f"    {variant:34} {shown}", flush=True)
    if args.tiny:
        return
    from .records import store

    load = os.getloadavg()[0]
    store("cpu_ablation", {"load_average": load, "rows": rows})


if __name__ == "__main__":
    main()

r"""What each thing that makes the training step quick is worth on a CPU.

The library as it is beside itself with one thing taken away, or added, in processes
that take turns. Before the clock each takes two steps: the parameters move alike.

    python -m benchmarks.step_ablation
    git worktree add FOLDER d1b994a                       # channels first, a sum a pass
    python -m benchmarks.step_ablation --before FOLDER
    python -m benchmarks.step_ablation --machine NAME --seconds 4 \
        --variants "without Winograd's algorithm"
    python -m benchmarks.step_ablation --archs resnet8 --batch 16 --tiny    # a minute
"""

import argparse
import os
import pickle
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from .speed import Case, spread

AS_IS = "as it is"
# What is done in the process before a network is made.
CHANGES = {
    AS_IS: "",
    "without compiler_options": """
from eqcifar import parallel
parallel.compiler_options = dict
""",
    "without barriers": """
from eqcifar.models import _conv2d
_conv2d._materialise = lambda x: x
""",
    "2x2 images convolved by XLA": """
from eqcifar.models import _convolve_3x3
_convolve_3x3._convolve_densely = _convolve_3x3._convolve
""",
    "without Winograd's algorithm": """
from eqcifar.models import _convolve_3x3
_convolve_3x3._FEWEST_CHANNELS = 10**6
""",
    "BatchNorm's sums one at a time": """
from eqcifar.models import _pair
from jax.interpreters import mlir
one_by_one = mlir.lower_fun(_pair._sums, multiple_results=True)
mlir.register_lowering(_pair._sums_p, one_by_one, platform="cpu")
""",
    "with huge pages": "",
}
VARIABLES = {"with huge pages": {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}}
ONLY = {"2x2 images convolved by XLA": ("vgg",)}
# Relative, as vectors.
TOLERANCE = 2e-2

_SERVE = """
import pickle, sys
case = pickle.load(sys.stdin.buffer)
from benchmarks.speed import Case
from benchmarks.subject import Subject
subject = Subject(Case(**case))
while call := pickle.load(sys.stdin.buffer):
    method, *arguments = call
    pickle.dump(getattr(subject, method)(*arguments), sys.stdout.buffer)
    sys.stdout.buffer.flush()
"""


class Variant:
    """A `Subject` in a process of its own, changed, perhaps of another checkout."""

    def __init__(self, case: Case, name: str, checkout: Path):
        self.name, self.case = name, case
        paths = {"PYTHONPATH": str(checkout), **VARIABLES.get(name, {})}
        self._process = subprocess.Popen(
            [sys.executable, "-c", CHANGES.get(name, "") + _SERVE],
            cwd=checkout,
            env={**os.environ, **paths},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._send({"arch": case.arch, "batch": case.batch, "images": case.images})

    def call(self, method: str, *arguments: Any) -> Any:
        self._send((method, *arguments))
        return pickle.load(self._pipe(self._process.stdout))

    def prepare(self) -> np.ndarray:
        """Compile and take two steps; how they moved the parameters.

        The first step of the warm-up has a learning rate of 0.
        """
        self.call("compile")
        before = self.call("weights")
        self.call("train", 2)
        moved = [b - a for a, b in zip(before, self.call("weights"), strict=True)]
        return np.concatenate([each.ravel() for each in moved])

    def rate(self, calls: int) -> float:
        """Images a second in one turn."""
        return self.case.batch * calls / self.call("train", calls)

    def stop(self):
        self._send(None)
        self._process.wait()

    def _send(self, what: Any):
        pipe = self._pipe(self._process.stdin)
        pickle.dump(what, pipe)
        pipe.flush()

    @staticmethod
    def _pipe(pipe: Any) -> Any:
        assert pipe is not None
        return pipe


def measure(case: Case, checkouts: dict[str, Path], rounds: int, seconds: float):
    """Images a second of all variants of a network, and their ratios."""
    variants: dict[str, Variant] = {}
    differences: dict[str, float] = {}
    try:
        expected = np.zeros(0)
        for name, checkout in checkouts.items():
            variants[name] = variant = Variant(case, name, checkout)
            moved = variant.prepare()
            if name == AS_IS:
                expected = moved
                continue
            difference = np.linalg.norm(moved - expected) / np.linalg.norm(expected)
            differences[name] = float(difference)
            assert difference < TOLERANCE, (case.arch, differences)
        ours = variants[AS_IS]
        calls = max(1, round(seconds * ours.rate(1) / case.batch))
        rates: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(rounds):
            for name, variant in variants.items():
                rates[name].append(variant.rate(calls))
    finally:
        for variant in variants.values():
            variant.stop()
    return {
        "arch": case.arch,
        "batch": case.batch,
        "steps_a_turn": calls,
        "differences": differences,
        "images_per_second": {name: spread(values) for name, values in rates.items()},
        "ratio": {
            name: spread(
                [a / b for a, b in zip(rates[AS_IS], rates[name], strict=True)]
            )
            for name in differences
        },
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--archs", default="resnet18,resnet20,wrn16-4,vgg")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.8, help="of a turn")
    parser.add_argument("--variants", help="some, separated by commas; else all")
    parser.add_argument("--machine", default="", help="a name to add to the file's")
    parser.add_argument("--before", type=Path, help="another checkout to compare with")
    parser.add_argument("--tiny", action="store_true", help="store nothing")
    args = parser.parse_args()
    here = Path(__file__).parent.parent
    names = [AS_IS, *args.variants.split(",")] if args.variants else [*CHANGES]
    if unknown := set(names) - CHANGES.keys():
        parser.error(f"no such variant: {', '.join(sorted(unknown))}")
    if args.variants and not (args.machine or args.tiny):
        parser.error(
            "--variants would replace the table of all: add --machine or --tiny"
        )
    rows = []
    for arch in args.archs.split(","):
        checkouts = {
            name: here for name in names if name not in ONLY or arch in ONLY[name]
        }
        if args.before:
            checkouts["before"] = args.before.resolve()
        began = time.perf_counter()
        case = Case(arch, args.batch, images=max(args.batch, 1024))
        row = measure(case, checkouts, args.rounds, args.seconds)
        rows.append(row)
        print(f"{arch} ({time.perf_counter() - began:.0f} s)")
        for name, found in row["images_per_second"].items():
            print(
                f"    {name:32} {statistics.median(found['values']):8.1f} images/s "
                f"({found['low']:.1f} to {found['high']:.1f})",
                flush=True,
            )
    if args.tiny:
        return
    from .records import store

    commit = None
    if args.before:
        git = ["git", "-C", str(args.before), "rev-parse", "HEAD"]
        commit = subprocess.check_output(git, text=True).strip()
    store(
        "step_ablation",
        {
            "load_average": os.getloadavg()[0],
            "arguments": {"rounds": args.rounds, "seconds": args.seconds},
            "before": commit,
            "rows": rows,
        },
        args.machine,
    )


if __name__ == "__main__":
    main()

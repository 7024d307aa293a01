"""Where a training step on a CPU spends its time, by kind of operation.

The profiler sees an operation of XLA from its start to the end of its call. A
convolution is handed to threads meanwhile, so convolutions are the rest of the step,
with the waiting between operations: compare them, and the sums of Winograd's algorithm,
with `benchmarks.convolutions`.

    python -m benchmarks.step_profile
"""

import argparse
import multiprocessing
import os
import re
import tempfile
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import jax

from .records import store
from .speed import Case, spread
from .subject import Subject

REST = "convolutions and waiting"


def kind(name: str, origin: str) -> str:
    """The kind of an operation, by its name in the program and what it came from."""
    if name.startswith(("convolution", "dot", "while", "call")):
        return REST
    if "winograd" in origin:
        return "sums of Winograd's algorithm"
    if "transpose" in name or "copy" in name:
        return "transposed copies"
    if "reduce" in name:
        return "sums"
    if "jvp" in origin:
        return "other of the network, by element"
    return "optimiser, images and others"


def origins(program: str) -> dict[str, str]:
    """What JAX says that each operation of a compiled program came from."""
    inside: dict[str, str] = defaultdict(str)
    found: dict[str, str] = {}
    calls: dict[str, str] = {}
    computation = ""
    for line in program.splitlines():
        if begin := re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line):
            computation = begin[1]
        if operation := re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = ", line):
            origin = re.search(r'op_name="([^"]*)"', line)
            found[operation[1]] = origin[1] if origin else ""
            inside[computation] += found[operation[1]]
            if called := re.search(r"calls=%?([\w.\-]+)", line):
                calls[operation[1]] = called[1]
    return {
        name: origin + inside.get(calls.get(name, ""), "")
        for name, origin in found.items()
    }


def union(intervals: list[tuple[float, float]]) -> float:
    """The length of what intervals cover together."""
    covered, end = 0.0, float("-inf")
    for start, stop in sorted(intervals):
        covered += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return covered


def measure(arch: str, batch: int, steps: int) -> dict:
    subject = Subject(Case(arch, batch))
    subject.compile()
    subject.train(2)
    plain = [subject.train(1) for _ in range(5)]
    origin = origins(subject.compiled.compiled.as_text())
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            traced = subject.train(steps) / steps
        (path,) = Path(folder).rglob("*.xplane.pb")
        profile = jax.profiler.ProfileData.from_file(str(path))
    spans: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for plane in profile.planes:
        for line in plane.lines:
            for event in line.events:
                if event.name in origin:
                    of = kind(event.name, origin[event.name])
                    end = event.start_ns + event.duration_ns
                    spans[of].append((event.start_ns, end))
    spans.pop(REST, None)
    ms = {of: union(found) / 1e6 / steps for of, found in spans.items()}
    ms[REST] = 1e3 * traced - sum(ms.values())
    return {
        "arch": arch,
        "batch": batch,
        "step_seconds": spread(plain),
        "traced_step_ms": 1e3 * traced,
        "ms": ms,
        "share": {of: found / 1e3 / traced for of, found in ms.items()},
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--archs", default="resnet18,resnet20,wrn16-4,vgg")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--machine", default="", help="ends the name of the result")
    parser.add_argument("--steps", type=int, default=3, help="under the profiler")
    args = parser.parse_args()
    pool = ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), max_tasks_per_child=1
    )
    rows = []
    for arch in args.archs.split(","):
        rows.append(pool.submit(measure, arch, args.batch, args.steps).result())
        row = rows[-1]
        plain = 1e3 * row["step_seconds"]["median"]
        print(f"{arch}: {row['traced_step_ms']:.0f} ms, {plain:.0f} without profiler")
        for of, found in row["ms"].items():
            print(f"    {of:34} {found:7.1f} ms {row['share'][of]:6.1%}", flush=True)
    pool.shutdown()
    load = os.getloadavg()[0]
    arguments = {"steps": args.steps}
    result = {"load_average": load, "arguments": arguments, "rows": rows}
    store("step_profile", result, args.machine)


if __name__ == "__main__":
    main()

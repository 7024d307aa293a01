"""What the benchmarks share: taking turns, and keeping rows with where they are from.

A result is a file of records, one for each machine, set of versions and command:

    {"environment": ..., "command": ..., "about": ..., "rows": [...]}

and a row is `{what, value, low, high, n, unit}`.
"""

import argparse
import contextlib
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "jax",
    "equinox",
    "optax",
    "numpy",
    "torch",
    "torchvision",
    "timm",
    "pyhessian",
    "curvlinops-for-pytorch",
)

Row = dict[str, Any]


def row(
    what: str,
    unit: str,
    value: float,
    low: float | None = None,
    high: float | None = None,
    n: int | None = None,
) -> Row:
    """One number: of what, in which unit, with an interval or range, from n trials."""
    found = {"what": what, "value": value, "low": low, "high": high, "n": n}
    return {k: v for k, v in found.items() if v is not None} | {"unit": unit}


def spread(what: str, unit: str, values: Sequence[float]) -> Row:
    """The median of measurements, and their range."""
    middle = statistics.median(values)
    return row(what, unit, middle, min(values), max(values), len(values))


def share(what: str, unit: str, hits: int, n: int) -> Row:
    """How often something held, with Wilson's 95 % interval."""
    z, p = 1.96, hits / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    return row(what, unit, p, middle - half, middle + half, n)


def alternate(
    works: Mapping[str, Callable[[], Any]], rounds: int
) -> dict[str, list[float]]:
    """Seconds of each, taking turns: a machine that slows down slows down all.

    One round more comes first and is not counted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            begin = time.perf_counter()
            work()
            if turn > 0:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def environment() -> dict[str, Any]:
    """Processor, cores, accelerator, versions and commit."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = (line.partition(":") for line in cpuinfo.read_text().splitlines())
        about = {name.strip(): value.strip() for name, _, value in lines}
        processor = about.get("model name", processor)
        if "cpu family" in about:
            # The name alone may be that of five generations.
            processor += f" (family {about['cpu family']}, model {about['model']})"
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    git = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
    )
    found = {"processor": processor, "cores": os.cpu_count(), "versions": versions}
    if git.returncode == 0:
        found["commit"] = git.stdout.strip()
    if "jax" in sys.modules:
        import jax

        if jax.default_backend() != "cpu":
            found["accelerator"] = jax.devices()[0].device_kind
    return found


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The options of a benchmark, whose module says what it is for."""
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks {sys.argv[1]}" if len(sys.argv) > 1 else None,
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def command() -> str:
    """The command that runs, with the reader's place for folders."""
    words = ("FOLDER" if os.path.exists(word) else word for word in sys.argv[1:])
    return f"python -m benchmarks {shlex.join(words)}"


def records(name: str) -> list[dict[str, Any]]:
    """The records of a result, or none."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text())["records"] if path.exists() else []


def store(name: str, rows: Sequence[Row], **about: Any):
    """Keep rows, in place of earlier ones of the same names and units."""
    here = {"environment": environment(), "command": command(), "about": about}
    names = {(r["what"], r["unit"]) for r in rows}
    kept: list[dict[str, Any]] = []
    for record in records(name):
        left = [r for r in record["rows"] if (r["what"], r["unit"]) not in names]
        if left:
            kept.append({**record, "rows": left})
    same = [r for r in kept if all(r[k] == v for k, v in here.items())]
    if same:
        same[0]["rows"] += rows
    else:
        kept.append({**here, "rows": list(rows)})
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(_text(kept))
    for r in rows:
        between = f"  [{r['low']:.4g}, {r['high']:.4g}]" if "low" in r else ""
        value = r["value"] if isinstance(r["value"], str) else f"{r['value']:.4g}"
        print(f"{r['what']}: {value}{between} {r['unit']}", flush=True)


def _text(kept: list[dict[str, Any]]) -> str:
    """JSON with a line for each row, so that a change of one is one line."""
    parts = []
    for record in kept:
        head = json.dumps({k: v for k, v in record.items() if k != "rows"}, indent=1)
        lines = ",\n".join(json.dumps(each) for each in record["rows"])
        parts.append(f'{head[:-2]},\n "rows": [\n{lines}\n]}}')
    return '{"records": [\n' + ",\n".join(parts) + "\n]}\n"

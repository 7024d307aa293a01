"""How a benchmark's result is kept: JSON with the machine and versions it came from."""

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

from eqcifar.runs._environment import environment

RESULTS = Path(__file__).parent / "results"


def hardware_and_versions() -> dict[str, Any]:
    """What the library writes beside a run, the processor's name and PyTorch's."""
    record = environment(jax.device_count())
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        names = {x.split(":")[1].strip() for x in lines if x.startswith("model name")}
        record["devices"]["cpu"] = ", ".join(sorted(names))
    try:
        record["versions"]["torch"] = version("torch")
    except PackageNotFoundError:
        record["versions"]["torch"] = None
    return record


def store(name: str, result: dict[str, Any]) -> Path:
    """Write `results/<name>.json` and say so."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    record = {"benchmark": name, "environment": hardware_and_versions(), **result}
    path.write_text(json.dumps(record, indent=2) + "\n")
    print(f"wrote benchmarks/results/{path.name}")
    return path

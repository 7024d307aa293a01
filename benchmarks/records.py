"""How a benchmark's result is kept: JSON with the machine and versions it came from."""

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

from eqcifar.runs._environment import environment

RESULTS = Path(__file__).parent / "results"


def read(name: str, machine: str = "") -> dict[str, Any]:
    """A result as it was stored, or nothing."""
    path = RESULTS / f"{_named(name, machine)}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _named(name: str, machine: str) -> str:
    return f"{name}_{machine}" if machine else name


def renew(page: Path, tables: dict[str, list[str]]):
    """Put the lines of each table between its two marks on a page."""
    text = page.read_text()
    for name, lines in tables.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, rest = text.split(begin)
        text = before + begin + "\n".join([*lines, ""]) + end + rest.split(end)[1]
    page.write_text(text)
    print(f"wrote docs/{page.name}")


def hardware_and_versions() -> dict[str, Any]:
    """What the library writes beside a run, the processor's name and PyTorch's."""
    record = environment(jax.device_count())
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        first, _, _ = cpuinfo.read_text().partition("\n\n")
        lines = (line.partition(":") for line in first.splitlines())
        about = {name.strip(): value.strip() for name, _, value in lines}
        name = about.get("model name", platform.machine())
        if "cpu family" in about:
            # The name alone may be that of five generations.
            name += f" (family {about['cpu family']}, model {about['model']})"
        record["devices"]["cpu"] = name
    try:
        record["versions"]["torch"] = version("torch")
    except PackageNotFoundError:
        record["versions"]["torch"] = None
    return record


def store(name: str, result: dict[str, Any], machine: str = "") -> Path:
    """Write `results/<name>.json`, or `<name>_<machine>.json`, and say so."""
    name = _named(name, machine)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    record = {"benchmark": name, "environment": hardware_and_versions(), **result}
    path.write_text(json.dumps(record, indent=2) + "\n")
    print(f"wrote benchmarks/results/{path.name}")
    return path

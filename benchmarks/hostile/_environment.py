"""A tiny network trained, measured and tabulated wherever a user may be."""

import json
import math
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ._try import Fault

_ROOT = Path(__file__).parents[2]
_TRAIN = (
    *("train", "--dataset", "synthetic", "--limit-train", "40", "--limit-test", "20"),
    *("--arch", "resnet8", "--width", "0.25", "--batch-size", "20", "--lr", "0.1"),
    *("--devices", "1", "--epochs", "2"),
)
# Three commands in one process, as starting takes most of their time.
_PROGRAM = """
import contextlib, io, json, os, sys
sys.path[:0] = {paths!r}
{first}
from eqcifar_cli import app

def run(*words):
    try:
        app(words, prog_name="eqcifar")
    except SystemExit as end:
        if end.code:
            sys.exit(end.code)

run(*{train!r}, "--out", {out!r})
{between}
for name, words in dict(
    eval=["eval", "--out", {moved!r}, "--json"],
    table=["tabulate", {moved!r}, "--format", "json", "-m", "acc_te,loss_te,loss_tr"],
).items():
    said = io.TextIOWrapper(io.BytesIO(), "utf-8")
    with contextlib.redirect_stdout(said):
        run(*words)
    said.flush()
    with open({told!r}, "ab") as file:
        file.write(said.buffer.getvalue() + b"\\0")
"""
_BACK = """
import itertools, time
_now, _calls = time.time, itertools.count()
time.time = lambda: _now() - 3600.0 * next(_calls)
"""
PLACES: dict[str, dict[str, Any]] = {
    "no HOME": {"env": {"HOME": None}},
    "a home that cannot be written": {"env": {"HOME": "/proc/none"}},
    "LANG=C": {"env": {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0"}},
    "ASCII alone": {"env": {"PYTHONIOENCODING": "ascii", "LC_ALL": "POSIX"}},
    "TERM=dumb in a terminal": {"env": {"TERM": "dumb"}, "terminal": True},
    "COLUMNS=40 in a terminal": {"env": {"COLUMNS": "40"}, "terminal": True},
    "no standard input": {"first": "os.close(0)"},
    "python -W error": {"python": ("-W", "error")},
    "JAX_ENABLE_X64": {"env": {"JAX_ENABLE_X64": "1"}, "tolerance": 0.2},
    "JAX_DEBUG_NANS": {"env": {"JAX_DEBUG_NANS": "1"}},
    "a user's XLA_FLAGS": {
        "env": {"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}
    },
    "XLA_FLAGS that are none": {"env": {"XLA_FLAGS": "--xla_no_such_flag=1"}},
    "OMP_NUM_THREADS=1": {"env": {"OMP_NUM_THREADS": "1"}},
    "blanks and Unicode in the path": {"name": "Résultats — 結果 'x' [1]*"},
    "results behind a link": {"link": True},
    "results moved elsewhere": {"move": True},
    "a clock that goes back": {"first": _BACK},
}


def environments(
    folder: Path, names: tuple[str, ...] = tuple(PLACES), said: Callable = print
) -> list[Fault]:
    """Each place once: the numbers of a plain one, or a line that says why not."""
    truth, _, _ = _run(folder / "plain")
    assert truth is not None
    faults = []
    for number, name in enumerate(names):
        place = dict(PLACES[name])
        tolerance = place.pop("tolerance", 1e-5)
        began = time.perf_counter()
        found, code, text = _run(folder / f"place{number}", **place)
        fault = Fault(f"environment: {name}", 1, seconds=time.perf_counter() - began)
        errors = [line for line in text.splitlines() if line.startswith("Error: ")]
        if found is not None:
            fault.wrong = int(_distance(found, truth) > tolerance)
        elif code and len(errors) == 1 and "Traceback" not in text:
            fault.refused, fault.line = 1, errors[0]
        else:
            fault.lost = 1
            said(f"{name}: exit code {code}: {text[-2000:]}")
        if fault.wrong:
            said(f"{name}: {found} in place of {truth}")
        faults.append(fault)
    return faults


def _run(
    folder: Path,
    *,
    env: Mapping[str, str | None] | None = None,
    python: tuple[str, ...] = (),
    first: str = "",
    name: str = "results",
    link: bool = False,
    move: bool = False,
    terminal: bool = False,
) -> tuple[dict[str, float] | None, int, str]:
    """Numbers by name, the exit code, and what was shown."""
    folder.mkdir()
    out = moved = folder / name
    if link:
        (folder / "real").mkdir()
        out.symlink_to(folder / "real")
    if move:
        moved = folder / "elsewhere" / "deeper"
    told = folder / "told"
    program = _PROGRAM.format(
        paths=[str(_ROOT), str(_ROOT / "cli")],
        first=first,
        train=_TRAIN,
        out=str(out),
        between=f"os.renames({str(out)!r}, {str(moved)!r})" if move else "",
        moved=str(moved),
        told=str(told),
    )
    here = {**os.environ, "JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1"}
    here |= {name: value for name, value in (env or {}).items() if value is not None}
    for each in ("XDG_CACHE_HOME", "EQCIFAR_CACHE", *(env or {})):
        if (env or {}).get(each) is None:
            here.pop(each, None)
    command = [sys.executable, *python, "-c", program]
    code, text = (_in_terminal if terminal else _in_pipe)(command, here)
    numbers = None
    if code == 0 and told.exists():
        numbers = _numbers(told.read_bytes())
    return numbers, code, text


def _in_pipe(command: list[str], env: Mapping[str, str]) -> tuple[int, str]:
    done = subprocess.run(
        command, env=env, capture_output=True, stdin=subprocess.DEVNULL
    )
    return done.returncode, (done.stdout + done.stderr).decode(errors="replace")


def _in_terminal(command: list[str], env: Mapping[str, str]) -> tuple[int, str]:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command, env=env, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    parts = []
    while True:
        ready, _, _ = select.select([ours], [], [], 0.2)
        try:
            parts.append(os.read(ours, 65536) if ready else b"")
        except OSError:
            break
        if not ready and process.poll() is not None:
            break
    os.close(ours)
    return process.wait(), b"".join(parts).decode(errors="replace")


def _numbers(told: bytes) -> dict[str, float]:
    evaluation, table = (json.loads(part) for part in told.split(b"\0")[:2])
    found = {row["metric"]: row["mean"] for row in table["rows"]}
    for name in ("accuracy", "loss"):
        found[f"eval {name}"] = evaluation[name]["value"]
    return found


def _distance(found: dict[str, float], truth: dict[str, float]) -> float:
    if found.keys() != truth.keys():
        return math.inf
    return max(abs(found[k] - x) / max(abs(x), 1e-3) for k, x in truth.items())

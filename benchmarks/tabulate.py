"""Tabulate many runs: time, memory, and that JAX and NumPy stay out of it.

Writes folders as training leaves them, tabulates them by the command line in processes
of their own, and checks the table against what was written before reporting a time.

    python -m benchmarks tabulate --runs 10000 --epochs 200
"""

import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from eqcifar.config import TrainConfig
from eqcifar.storage import COLUMNS, run_path

from .shared import parser, row, spread, store

_CODE = """
import json, resource, sys, time
from eqcifar_cli import app
try:
    app(["tabulate", sys.argv[1], "--format", "json"])
except SystemExit as end:
    code = end.code
heavy = sorted({"jax", "numpy", "pandas", "scipy"} & set(sys.modules))
used = resource.getrusage(resource.RUSAGE_SELF)
report = {"code": code, "imported": heavy, "peak": used.ru_maxrss * 1024}
report["cpu"] = used.ru_utime + used.ru_stime
print(json.dumps(report), file=sys.stderr)
"""


def main(argv: list[str]):
    """Write runs, then tabulate them again and again."""
    options = parser(__doc__)
    options.add_argument("--runs", type=int, default=10_000)
    options.add_argument("--epochs", type=int, default=200)
    options.add_argument("--rounds", type=int, default=5)
    args = options.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        means = write(Path(folder), args.runs, args.epochs)
        found = [measure(Path(folder), means) for _ in range(args.rounds)]
    assert found[0][1]["imported"] == [], found[0][1]
    what = f"{args.runs:,} runs of {args.epochs} epochs"
    seconds, reports = zip(*found, strict=True)
    store(
        "tabulate",
        [
            spread(what, "s", seconds),
            spread(what, "s of the processor", [r["cpu"] for r in reports]),
            row(what, "most memory, MB", max(r["peak"] for r in reports) / 1e6),
        ],
    )


def write(root: Path, runs: int, epochs: int) -> list[float]:
    """Write the runs, 4 seeds a configuration; return the rows' mean accuracies."""
    rng = random.Random(0)
    header = "\t".join(COLUMNS) + "\n"
    body = "".join(
        "\t".join([str(epoch), *(repr(rng.random()) for _ in COLUMNS[1:])]) + "\n"
        for epoch in range(1, epochs)
    )
    means = []
    seconds = [float(line.split("\t")[-2]) for line in body.splitlines()]
    assert COLUMNS[-2] == "seconds"
    for start in range(0, runs, 4):
        accuracies = [rng.random() for _ in range(4)]
        means.append(statistics.fmean(accuracies))
        for seed, accuracy in enumerate(accuracies):
            config = TrainConfig(lr=(start + 1) / runs, epochs=epochs, seed=seed)
            path = run_path(root, config)
            path.mkdir(parents=True)
            last = [epochs, *(rng.random() for _ in COLUMNS[1:])]
            last[COLUMNS.index("acc_te")] = accuracy
            row = "\t".join(map(repr, last)) + "\n"
            (path / "log.tsv").write_text(header + body + row)
            fields = {"format": 1, "synthetic": False, "config": config.to_dict()}
            (path / "config.json").write_text(json.dumps(fields, indent=2))
            total = math.fsum([*seconds, last[-2]])
            status = {"state": "done", "seconds": total}
            (path / "status.json").write_text(json.dumps(status))
    return sorted(means)


def measure(root: Path, means: list[float]) -> tuple[float, dict]:
    """Seconds from the start of the process to its end, and what it used."""
    start = time.perf_counter()
    process = subprocess.run(
        [sys.executable, "-c", _CODE, str(root)], capture_output=True, text=True
    )
    seconds = time.perf_counter() - start
    report = json.loads(process.stderr.splitlines()[-1])
    rows = json.loads(process.stdout)["rows"]
    assert report["code"] == 0, process.stderr
    assert all(row["count"] == 4 for row in rows)
    found = sorted(row["mean"] for row in rows)
    worst = max(abs(x - y) for x, y in zip(found, means, strict=True))
    assert worst < 1e-12, worst
    return seconds, report

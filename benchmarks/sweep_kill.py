"""Kill a sweep halfway with SIGKILL, start it again, and see that nothing is lost.

Twelve runs on procedural images: two small architectures, with and without MixUp, three
seeds. Each must be computed once: every epoch in its log once, and started anew never.
Their table is then printed in all formats and compared with what pandas makes of the
logs, and their report is written.

    python -m benchmarks.sweep_kill
"""

import argparse
import io
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pandas as pd

from eqcifar.storage import Run, find_runs

from .records import store

EPOCHS = 2
OPTIONS = (
    *("--dataset", "synthetic", "--limit-train", "500", "--limit-test", "100"),
    *("--arch", "resnet8,wrn10-1", "--mixup", "0,0.4", "--seeds", "0-2"),
    *("--width", "0.5", "--epochs", str(EPOCHS), "--batch-size", "50", "--lr", "0.1"),
)
RUNS = 12
METRICS = "loss", "acc_tr", "acc_te", "weight_norm"
TOLERANCE = 1e-12
PROGRAM = sys.executable, "-m", "eqcifar_cli"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="keep the results here")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = options.out or Path(folder) / "results"
        result = measure(out, options.jobs) | {"table": tabulate(out)}
        result["report_bytes"] = report(out, Path(folder) / "report.html")
    store("sweep_kill", result)
    return int(not (result["each_run_computed_once"] and result["table"]["agrees"]))


def measure(out: Path, jobs: int) -> dict:
    command = [*PROGRAM, "sweep", *OPTIONS]
    command += ["--jobs", str(jobs), "--out", str(out)]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    # Halfway: six are done, and one of the two that run has done one epoch of two.
    while sum(run.is_done() for run in runs(out)) < RUNS // 2 or not midway(out):
        if process.poll() is not None:
            raise SystemExit("the sweep ended before it could be killed")
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    killed_after = time.perf_counter() - began
    at_kill = {name(run, out): run.status() for run in runs(out)}
    states = Counter(
        "done" if status["state"] == "done" else "running"
        for status in at_kill.values()
    )
    models = {
        path: path.stat().st_mtime_ns for path in out.glob("*/*/*/model.safetensors")
    }

    again = time.perf_counter()
    second = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - again
    third = subprocess.run(command, stdout=subprocess.PIPE, text=True)

    logs = {name(run, out): (run.path / "run.log").read_text() for run in runs(out)}
    resumed = {
        name: [line for line in log.splitlines() if line.startswith("Going on after")]
        for name, log in logs.items()
        if "Going on after" in log
    }
    checks = {
        "all_runs_done": sum(run.is_done() for run in runs(out)) == RUNS,
        "every_epoch_in_the_log_once": all(
            [row["epoch"] for row in run.log()] == list(range(1, EPOCHS + 1))
            for run in runs(out)
        ),
        "started_from_the_first_step_once": all(
            log.count("Training: ") == 1 for log in logs.values()
        ),
        "done_before_the_kill_left_alone": all(
            path.stat().st_mtime_ns == written for path, written in models.items()
        ),
        "third_start_has_nothing_to_do": third.stdout.endswith(
            f"\n{RUNS} finished before\n"
        ),
        "exit_codes": [second.returncode, third.returncode] == [0, 0],
    }
    return {
        "what": "a sweep killed by SIGKILL halfway, then started again",
        "data": "SYNTHETIC",
        "command": ["eqcifar", "sweep", *OPTIONS, "--jobs", str(jobs)],
        "runs": RUNS,
        "at_the_kill": {**states, "waiting": RUNS - len(at_kill)},
        "killed_runs": {
            name: {"epoch": status["epoch"]}
            for name, status in at_kill.items()
            if status["state"] != "done"
        },
        "resumed_runs": resumed,
        "checks": checks,
        "each_run_computed_once": all(checks.values()),
        "first_sweep_s": round(killed_after, 1),
        "second_sweep_s": round(seconds, 1),
        "printed_by_the_second_sweep": second.stdout.replace(
            str(out), "results"
        ).splitlines(),
    }


def tabulate(out: Path) -> dict:
    """Print the table in all formats; compare those in full precision with the logs."""
    printed = {}
    for form in ("table", "markdown", "latex", "tsv", "csv", "json"):
        command = [*PROGRAM, "tabulate", str(out), "--metric", ",".join(METRICS)]
        command += ["--format", form]
        done = subprocess.run(command, capture_output=True, check=True, text=True)
        printed[form] = done.stdout
    expected = from_logs(out)
    frames = {
        "tsv": pd.read_csv(io.StringIO(printed["tsv"]), sep="\t"),
        "csv": pd.read_csv(io.StringIO(printed["csv"])),
        "json": pd.DataFrame(json.loads(printed["json"])["rows"]),
    }
    differences = {}
    for form, frame in frames.items():
        found = frame.set_index(["arch", "mixup", "metric"]).sort_index()
        assert set(found["count"]) == {3}
        assert found.index.equals(expected.index), form
        columns = ["mean", "std"]
        difference = (found[columns] - expected[columns]).abs()
        relative = difference.div(expected["mean"].abs(), axis=0)
        differences[form] = float(relative.to_numpy().max())
    return {
        "metrics": METRICS,
        "lines": {form: text.count("\n") for form, text in printed.items()},
        "rows_compared_with_pandas": len(expected),
        "largest_difference_of_mean_and_std_over_mean": differences,
        "agrees": max(differences.values()) <= TOLERANCE,
    }


def from_logs(out: Path) -> pd.DataFrame:
    """Mean and sample standard deviation of the last epochs, by pandas alone."""
    rows = []
    for path in out.glob("**/log.tsv"):
        config = json.loads((path.parent / "config.json").read_text())["config"]
        last = pd.read_csv(path, sep="\t").iloc[-1]
        fields = {"arch": config["arch"], "mixup": config["mixup"]}
        rows += [{**fields, "metric": name, "value": last[name]} for name in METRICS]
    grouped = pd.DataFrame(rows).groupby(["arch", "mixup", "metric"])["value"]
    return pd.DataFrame(grouped.agg(["mean", "std"])).sort_index()


def report(out: Path, page: Path) -> int:
    """Write the report; how long it is, in bytes."""
    command = [*PROGRAM, "report", str(out), "--out", str(page)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return page.stat().st_size


def runs(out: Path) -> list[Run]:
    return find_runs(out) if out.exists() else []


def midway(out: Path) -> bool:
    return any(0 < len(run.log()) < EPOCHS for run in runs(out))


def name(run: Run, out: Path) -> str:
    return str(run.path.relative_to(out))


if __name__ == "__main__":
    sys.exit(main())

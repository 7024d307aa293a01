"""SAM, MixUp and SGD, with right and with wrong labels: what `make study` runs.

python -m study.sam measure RESULTS    # the sharpness of runs of study/sam.toml
python -m study.sam collect RESULTS    # the runs to small tables in study/results
python -m study.sam page               # the tables to docs/measurements/sam.md
"""

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.shared import environment
from eqcifar.results import read_records, software
from eqcifar.storage import Run

from .sam_page import FIELDS, MEASURES, SAMPLES, write_page
from .tables import RESULTS, write_table

ENDS = "loss_tr", "acc_tr", "acc_tr_true", "loss_te", "acc_te"
NUMBERS = *ENDS, *(f"{name}{end}" for name in MEASURES for end in ("", "_se"))
CURVES = "epoch", "acc_tr", "acc_tr_true", "acc_te"


def main(argv: Sequence[str]):
    """Do one of the three."""
    commands = {"measure": measure, "collect": collect, "page": write_page}
    if not argv or argv[0] not in commands:
        sys.exit(__doc__)
    commands[argv[0]](*argv[1:])


def measure(root: str):
    """Measure each finished run with right labels that has no measures yet."""
    for record in read_records(root):
        right = record.state == "done" and not record.recipe.label_noise
        if not right or record.values.keys() >= set(MEASURES):
            continue
        command = [sys.executable, "-m", "eqcifar_cli", "sharpness", str(record.path)]
        command += ["--measures", "trace,lmax", "--samples", str(SAMPLES)]
        subprocess.run(command, check=True)


def collect(root: str):
    """Keep the ends and the curves of all runs that are done, and what made them."""
    records = [r for r in read_records(root) if r.state == "done"]
    records.sort(key=lambda r: [getattr(r.recipe, f) for f in FIELDS[:-1]] + [r.seed])
    ends, curves = [], []
    for record in records:
        fields = {name: getattr(record.recipe, name) for name in FIELDS}
        fields["seed"] = record.seed
        values = {name: record.values.get(name, math.nan) for name in NUMBERS}
        ends.append(fields | values)
        for row in Run(record.path).log():
            if not math.isnan(row["acc_te"]):
                curves.append(fields | {name: row[name] for name in CURVES})
    write_table("sam_runs", ends)
    write_table("sam_curves", curves)
    here = environment()
    about = {
        "data": Path(records[0].recipe.dataset).name,
        "hardware": f"{here['processor']}, {here['cores']} cores",
        "versions": software(records),
    }
    (RESULTS / "sam.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])

"""The table of accuracies of the original project, cell by cell.

python -m study.original run RESULTS DATA100 DATA [options of eqcifar sweep]
python -m study.original collect RESULTS     # finished runs to a table in study/results
python -m study.original page                # the table to a page of the manual

`run` takes the next most valuable cell, and goes on where it was stopped: after
--minutes N, or by a signal. Table and page elsewhere: --to FOLDER.
"""

import argparse
import math
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from eqcifar.results import hardware, read_records, software, summarise

from . import tables
from .tables import DATA, HERE, Row, how_made, markdown

SWEEPS = "original", "original_wrn"
# Published over 4 seeds, 200 epochs on 8 GPUs, by architecture and MixUp:
# https://github.com/sungyubkim/cifar_jax
PUBLISHED = {
    "cifar100": {
        ("original-resnet18", 0.0): ".7877 ± .0029",
        ("original-resnet18", 0.4): ".7980 ± .0027",
        ("vgg", 0.0): ".7464 ± .0007",
        ("vgg", 0.4): ".7505 ± .0022",
        ("original-wrn28-10", 0.0): ".8000 ± .0028",
        ("original-wrn28-10", 0.4): ".8057 ± .0008",
    },
    "cifar10": {
        ("original-resnet18", 0.0): ".9567 ± .0008",
        ("original-resnet18", 0.4): ".9635 ± .0005",
        ("vgg", 0.0): ".9433 ± .0017",
        ("vgg", 0.4): ".9496 ± .0010",
        ("original-wrn28-10", 0.0): ".9617 ± .0011",
        ("original-wrn28-10", 0.4): ".9675 ± .0011",
    },
}
FIELDS = "dataset", "arch", "mixup", "epochs", "batch_size", "hardware", "seed"


def main(argv: Sequence[str] | None = None):
    """Do one of the three."""
    parser = argparse.ArgumentParser(
        prog="python -m study.original", usage=__doc__, add_help=False
    )
    parser.add_argument("command", choices=["run", "collect", "page"])
    parser.add_argument("folders", nargs="*")
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--to", type=Path)
    given, options = parser.parse_known_args(argv)
    if given.to is not None:
        tables.RESULTS = tables.PAGES = given.to
    wanted = {"run": 3, "collect": 1, "page": 0}[given.command]
    if len(given.folders) != wanted or (options and given.command != "run"):
        parser.error(f"{given.command} takes {wanted} folders")
    if given.command == "run":
        root, data100, data = given.folders
        sys.exit(run(root, data100, data, options, given.minutes))
    elif given.command == "collect":
        collect(given.folders[0])
    else:
        write_page()


def run(
    root: str, data100: str, data: str, options: Sequence[str], minutes: float
) -> int:
    """Train what is not done, CIFAR-100 first; the exit code of the last sweep."""
    end, code = time.monotonic() + 60 * minutes, 0
    for sweep in SWEEPS:
        for dataset in (data100, data):
            command = [sys.executable, "-m", "eqcifar_cli", "sweep", "--out", root]
            command += ["--file", str(HERE / f"{sweep}.toml"), "--dataset", dataset]
            with subprocess.Popen([*command, *options]) as child:
                left = end - time.monotonic()
                try:
                    code = child.wait(left if math.isfinite(left) else None)
                except subprocess.TimeoutExpired:
                    child.send_signal(signal.SIGTERM)
                    code = child.wait()
            if code:
                return 128 - code if code < 0 else code
    return code


def collect(root: str):
    """Keep what became of all runs that are done, beside what is there."""
    rows = []
    for record in read_records(root):
        if record.state != "done":
            continue
        recipe = record.recipe
        fields = {
            "dataset": Path(recipe.dataset).name,
            "arch": recipe.arch,
            "mixup": recipe.mixup,
            "epochs": recipe.epochs,
            "batch_size": recipe.batch_size,
            "hardware": ", ".join(hardware([record])),
            "seed": record.seed,
            "images": recipe.limit_train or math.nan,
        }
        ends = {name: record.values[name] for name in ("acc_te", "loss_te")}
        about = {"seconds": record.seconds, "software": "; ".join(software([record]))}
        rows.append(fields | ends | about)
    tables.renew_table("original", rows, FIELDS)


def write_page():
    """Write the page, where there is a row."""
    rows = tables.read_table("original")
    if rows:
        (tables.PAGES / "original.md").write_text(page(rows))
        print(f"wrote original.md to {tables.PAGES}")


def page(rows: Sequence[Row]) -> str:
    """The page, from the table."""
    parts = [
        "# Beside the original",
        "<!-- Made by `python -m study.original page`: edit that. -->",
        "Test accuracy after the last epoch, mean ± sample standard deviation over "
        "seeds, beside the table of "
        "[cifar_jax](https://github.com/sungyubkim/cifar_jax): 4 seeds, 200 epochs, "
        "batches of 1,000, on 8 GPUs.",
    ]
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        some = [row for row in rows if row["dataset"] == dataset]
        parts += [f"## {DATA.get(dataset, dataset)}", markdown(_table(some, dataset))]
    if any("jpeg" in row["dataset"] for row in rows):
        parts.append("The JPEG copy is close to CIFAR-10 but not its pixels.")
    parts += ["## Method", "; ".join(dict.fromkeys(row["software"] for row in rows))]
    command = "python -m study.original run RESULTS DATA100 DATA"
    parts.append(how_made(SWEEPS, command))
    return "\n\n".join(parts) + "\n"


def _table(rows: Sequence[Row], dataset: str) -> Iterable[Sequence[str]]:
    published = PUBLISHED.get(dataset.partition("-")[0], {})
    yield "network", "MixUp", "here", "n", "original", "epochs", "time", "hardware"
    names = FIELDS[:-1]
    for key in dict.fromkeys(tuple(row[name] for name in names) for row in rows):
        same = [row for row in rows if tuple(row[name] for name in names) == key]
        about = dict(zip(names, key, strict=True))
        found = summarise(row["acc_te"] for row in same)
        spread = (
            "" if math.isnan(found.std) else f" ± {found.std:.4f}".replace("0.", ".")
        )
        minutes = summarise(row["seconds"] for row in same).mean / 60
        yield (
            about["arch"],
            f"{about['mixup']:g}",
            f"{found.mean:.4f}".removeprefix("0") + spread,
            str(found.count),
            published.get((about["arch"], about["mixup"]), ""),
            f"{about['epochs']:g}",
            f"{minutes:.3g} min",
            about["hardware"],
        )


if __name__ == "__main__":
    main()

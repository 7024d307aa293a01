"""Keep a run's log as a benchmark result, with its command and its environment.

python -m benchmarks.keep_run RUN NAME --data "CIFAR-10 (JPEG copy)" --note NOTE
"""

import argparse
import datetime
from pathlib import Path

from eqcifar.config import TrainConfig
from eqcifar.runs import Run

from .records import store


def command(config: TrainConfig) -> str:
    """The command that trains it, with the data's place left to the reader."""
    default = TrainConfig()
    options = [
        f"--{name.replace('_', '-')} {value}"
        for name, value in config.to_dict().items()
        if name != "dataset" and value != default.to_dict()[name]
    ]
    return " ".join(["eqcifar train --dataset FOLDER", *options])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument("name")
    parser.add_argument("--data", required=True, help="what the images are")
    parser.add_argument("--note", default="", help="what else has to be known")
    args = parser.parse_args()
    run = Run(Path(args.run))
    config = TrainConfig.from_dict(run.config())
    times = run.environment()["started"], run.status()["updated"]
    started, ended = (datetime.datetime.fromisoformat(time) for time in times)
    store(
        args.name,
        {
            "data": args.data,
            "note": args.note,
            "command": command(config),
            "config": config.to_dict() | {"dataset": args.data},
            "wall_seconds": (ended - started).total_seconds(),
            "log": run.log(),
        },
    )


if __name__ == "__main__":
    main()

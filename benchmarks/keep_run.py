"""Keep a run's log as a benchmark result, with its command and its environment.

python -m benchmarks.keep_run RUN NAME --data "CIFAR-10 (JPEG copy)" --note NOTE
"""

import argparse
import dataclasses
import datetime
import shlex
from pathlib import Path

from eqcifar.config import TrainConfig
from eqcifar.fields import train_arguments
from eqcifar.storage import Run

from .records import store


def command(config: TrainConfig) -> str:
    """The command that trains it, with the data's place left to the reader."""
    placed = dataclasses.replace(config, dataset="FOLDER")
    return shlex.join(["eqcifar", "train", *train_arguments(placed)])


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

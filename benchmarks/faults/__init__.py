"""What a fault costs: runs are killed, stopped, starved and deceived, then compared.

Each row of the table is a fault, tried many times: how often work was lost, how often
numbers were silently wrong, how long it took until all processes had ended, and the
line that was shown. A row that is tried again takes the place of the earlier one;
others are kept, so that the suite can be run in pieces.

    python -m benchmarks faults                        # all, for an hour or two
    python -m benchmarks faults --only SIGKILL         # rows with this word in the name
    python -m benchmarks faults --only "SIGKILL, SAM" --tries 4 --unkept
"""

import math
import random
import tempfile
import time
from pathlib import Path

from ..shared import parser, store
from ._outcomes import Outcome, rows_of
from ._rows import FAULTS
from ._workers import serve


def main(argv: list[str]):
    """Try faults, print and keep what came of each."""
    options = parser(__doc__)
    options.add_argument(
        "--only", action="append", metavar="WORDS", help="rows with these in the name"
    )
    options.add_argument("--tries", type=int, default=0, help="of each; 0: its own")
    options.add_argument(
        "--minutes", type=float, help="of each row, then no more tries"
    )
    options.add_argument("--seed", type=int, default=0, help="of the moments")
    options.add_argument("--unkept", action="store_true", help="store nothing")
    args = options.parse_args(argv)
    words = [each.lower() for each in args.only or [""]]
    chosen = [name for name in FAULTS if any(w in name.lower() for w in words)]
    if not chosen:
        raise SystemExit(f"no fault {args.only}: one of {'; '.join(FAULTS)}")
    missed = []
    with tempfile.TemporaryDirectory(prefix="faults-") as folder, serve(Path(folder)):
        for name in chosen:
            fault, began = FAULTS[name], time.monotonic()
            rng = random.Random(f"{args.seed} {name}")
            place = Path(tempfile.mkdtemp(dir=folder))
            outcomes: list[Outcome] = []
            for some in fault.attempt(place, args.tries or fault.tries, rng):
                outcomes += some
                late = time.monotonic() - began > 60 * (args.minutes or math.inf)
                if late:
                    break
            rows = rows_of(name, outcomes)
            print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
            if args.unkept:
                print(*rows, sep="\n", flush=True)
            else:
                store("faults", rows)
            if not fault.holds(outcomes):
                missed.append(name)
    if missed:
        raise SystemExit(f"not as promised: {'; '.join(missed)}")

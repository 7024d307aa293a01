"""What came of a fault, and the rows that tell of it."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from random import Random

from ..shared import Row, row, spread


@dataclasses.dataclass
class Outcome:
    """What came of one try.

    - `lost`: why the work could not go on; empty if it could.
    - `wrong`: what differed from an undisturbed run without anybody being told.
    - `seconds`: from the fault to the end of the last process that had to end.
    - `line`: what was shown.
    - `within`: whether it fell into the write of a file.
    """

    lost: str = ""
    wrong: str = ""
    seconds: float | None = None
    line: str = ""
    within: bool | None = None

    @property
    def holds(self) -> bool:
        """Whether nothing was lost, and nothing silently wrong."""
        return not self.lost and not self.wrong


Attempt = Callable[[Path, int, Random], Iterator[list[Outcome]]]


@dataclasses.dataclass(frozen=True)
class Fault:
    """A row of the table.

    - `attempt`: given an empty folder, how many tries, and random numbers.
    - `tries`: by default.
    - `limit`: seconds until all has to have ended.
    - `control`: of a writer that has to fail: something has to be lost.
    """

    attempt: Attempt
    tries: int
    limit: float | None = None
    control: bool = False

    def holds(self, outcomes: Iterable[Outcome]) -> bool:
        """Whether all is as promised."""
        outcomes = list(outcomes)
        if self.control:
            return any(not each.holds for each in outcomes)
        times = [each.seconds for each in outcomes if each.seconds is not None]
        in_time = self.limit is None or all(time <= self.limit for time in times)
        return in_time and all(each.holds for each in outcomes)


def rows_of(name: str, outcomes: Sequence[Outcome]) -> list[Row]:
    """The cells of a fault."""
    problems = [each.lost or each.wrong for each in outcomes if not each.holds]
    for problem in dict.fromkeys(problems):
        print(f"{name}: {problem}", flush=True)
    rows = [
        row(name, "tries", len(outcomes)),
        row(name, "lost", sum(bool(each.lost) for each in outcomes)),
        row(name, "silently wrong", sum(bool(each.wrong) for each in outcomes)),
    ]
    within = [each.within for each in outcomes if each.within is not None]
    if within:
        rows.insert(1, row(name, "inside a save", sum(within)))
    times = [each.seconds for each in outcomes if each.seconds is not None]
    if times:
        rows.append(spread(name, "seconds to end", times))
    # Of a path the name is enough.
    lines = [re.sub(r"/\S*/", "", each.line) for each in outcomes if each.line]
    if lines:
        most = max(dict.fromkeys(lines), key=lines.count)
        rows.append({"what": name, "value": most, "unit": "line shown"})
    return rows

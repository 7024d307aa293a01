import dataclasses
import itertools
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from ..config import TrainConfig, read_values
from ..errors import UsageError
from ..fields import parse_values

Item = TypeVar("Item")

# Lists multiply, and a file is soon written whose runs no memory holds.
_MOST_RUNS = 100_000


@dataclasses.dataclass(frozen=True)
class Grid:
    """The runs of a sweep: every combination of some values, with each of some entries.

    - `axes`: for each name of a `TrainConfig` field, the values it takes.
    - `entries`: fields that vary together, where not all combinations are wanted.
    """

    axes: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    entries: Sequence[Mapping[str, Any]] = ({},)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "Grid":
        """Read a TOML file.

        Its keys are common to all runs. A table `[grid]` holds a list for each key, or
        what `parse_values` reads; each table `[[list]]` is an entry.

        **Arguments:**

        - `path`: of the file.

        **Returns:**

        The grid that it describes.

        **Raises:**

        `UsageError` with the path and what is wrong.
        """
        values = read_values(path)
        try:
            return cls._from_file(values)
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error

    @classmethod
    def _from_file(cls, values: dict[str, Any]) -> "Grid":
        grid, entries = values.pop("grid", {}), values.pop("list", [{}])
        if not isinstance(grid, dict):
            raise UsageError("grid must be a table, [grid]")
        if not isinstance(entries, list) or not all(
            isinstance(entry, dict) for entry in entries
        ):
            raise UsageError("list must be tables, each [[list]]")
        for name in grid:
            if any(name in entry for entry in entries):
                raise UsageError(f"{name!r} is both in [grid] and in [[list]]")
        axes = {name: [value] for name, value in values.items()}
        for name, value in grid.items():
            value = parse_values(name, value) if isinstance(value, str) else value
            if not isinstance(value, list) or not value:
                raise UsageError(f"{name} = {value!r} in [grid]: must be a list")
            axes[name] = value
        return cls(axes, entries)

    def replace(self, axes: Mapping[str, Sequence[Any]]) -> "Grid":
        """The same with other values for some fields, in place of all it had.

        **Arguments:**

        - `axes`: the values of these fields, by name.

        **Returns:**

        Another grid.
        """
        entries = [
            {name: value for name, value in entry.items() if name not in axes}
            for entry in self.entries
        ]
        return Grid({**self.axes, **axes}, entries)

    def configs(self) -> list[TrainConfig]:
        """The configuration of each run, once, all of one seed before the next's.

        So the first rows of a table are soon there for all, and runs that start
        together seldom compile the same program.

        **Returns:**

        Configurations, none twice.

        **Raises:**

        `UsageError` for an unknown field or a value that it cannot have, and for more
        runs than anyone trains.
        """
        count = math.prod(map(len, self.axes.values())) * len(self.entries)
        if count > _MOST_RUNS:
            raise UsageError(
                f"this is a sweep of {count:,} runs: at most {_MOST_RUNS:,} are one"
            )
        names = sorted(self.axes, key=lambda name: name != "seed")
        configs = (
            TrainConfig.from_dict({**dict(zip(names, values, strict=True)), **entry})
            for values in itertools.product(*(self.axes[name] for name in names))
            for entry in self.entries
        )
        return list(dict.fromkeys(configs))


def take_shard(runs: Sequence[Item], shard: str) -> list[Item]:
    """Part `i` of `n` of some runs, for `shard` = `i/n` with `i` from 1 to `n`.

    **Arguments:**

    - `runs`: all of them, or their configurations.
    - `shard`: which part, as text.

    **Returns:**

    Every n-th, from the i-th on.

    **Raises:**

    `UsageError` when `shard` is not of that form.
    """
    form = re.fullmatch(r"(\d+)/(\d+)", shard)
    part, parts = map(int, form.groups()) if form else (0, 0)
    if not 1 <= part <= parts:
        raise UsageError(f"shard {shard!r}: must be i/n with i from 1 to n, as in 1/8")
    return list(runs[part - 1 :: parts])

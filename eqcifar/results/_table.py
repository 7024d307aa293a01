import dataclasses
import math
import os
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..errors import UsageError
from ..fields import DEFAULTS, FIELDS, check_field, natural
from ..storage import COLUMNS
from ._conditions import field_of, fields_of
from ._records import Record
from ._statistics import Summary, WelchTest, summarise, welch

# The order in which fields are shown: what the original's table is laid out by first.
_FIRST = "arch", "dataset"


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that nothing shown by the table tells apart, usually the seeds of one.

    - `fields`: what the table shows of the configuration.
    - `records`: the runs, whatever their state.
    - `missing`: seeds that other groups have and this one lacks.
    """

    fields: Mapping[str, Any]
    records: tuple[Record, ...]
    missing: tuple[int, ...] = ()

    @property
    def done(self) -> list[Record]:
        """The runs that count."""
        return [record for record in self.records if record.state == "done"]

    @property
    def size(self) -> int:
        """How many runs there should be."""
        return len(self.records) + len(self.missing)

    def seeds(self, state: str) -> list[int]:
        """The seeds in a state, which may be "missing".

        **Arguments:**

        - `state`: one of `eqcifar.storage.STATES`, or "missing".

        **Returns:**

        Sorted.
        """
        if state == "missing":
            return list(self.missing)
        return sorted(record.seed for record in self.records if record.state == state)

    def values(self, metric: str) -> list[float]:
        """A number of each run that is done; nan where it was not measured.

        **Arguments:**

        - `metric`: a column of the records.

        **Returns:**

        A number a run, in the order of `done`.
        """
        return [record.values.get(metric, math.nan) for record in self.done]

    def images(self, metric: str) -> list[int | None]:
        """How many images a measure of each run that is done rests on.

        `None` where its file does not say; nothing for what is no measure.

        **Arguments:**

        - `metric`: a column of the records.

        **Returns:**

        A number a run that has the measure.
        """
        return [record.bases[metric].images for record in self._measured(metric)]

    def conventions(self, metric: str) -> dict[tuple[tuple[str, str], ...], list[int]]:
        """The ways in which a measure was taken, and the seeds of each.

        **Arguments:**

        - `metric`: a column of the records.

        **Returns:**

        Seeds by convention, which is pairs of a column and its cell.
        """
        found: dict[tuple[tuple[str, str], ...], list[int]] = {}
        for record in self._measured(metric):
            found.setdefault(record.bases[metric].convention, []).append(record.seed)
        return found

    def _measured(self, metric: str) -> list[Record]:
        return [record for record in self.done if metric in record.bases]

    def summary(self, metric: str, ddof: int = 1) -> Summary:
        """Mean and standard deviation over the runs that are done.

        **Arguments:**

        - `metric`: a column of the records.
        - `ddof`: of the standard deviation: 1 for that of a sample.

        **Returns:**

        Of the runs that have the number.
        """
        return summarise(self.values(metric), ddof)

    def standard_error(self, metric: str) -> float:
        """What the runs' own standard errors make of that of their mean.

        It is `sqrt(sum se²) / n`: the part that comes from measuring.

        **Arguments:**

        - `metric`: a column of the records.

        **Returns:**

        The standard error; nan where no run has one.
        """
        errors = [error for error in self.values(f"{metric}_se") if error == error]
        if not errors:
            return math.nan
        return math.sqrt(math.fsum(error**2 for error in errors)) / len(errors)

    def seconds(self) -> float:
        """Mean time spent on training one network.

        **Returns:**

        Seconds; nan where no run says.
        """
        return summarise(record.seconds for record in self.done).mean


@dataclasses.dataclass(frozen=True)
class Table:
    """Groups of runs on real images alone, or on synthetic ones alone.

    - `groups`: in the order in which they are shown.
    - `synthetic`: on which images.
    - `fields`: what tells the groups apart, and always the architecture and dataset
        unless they are pooled.
    - `common`: what all runs have other than the default.
    - `pooled`: what differs within groups besides the seed.
    """

    groups: tuple[Group, ...]
    synthetic: bool
    fields: tuple[str, ...]
    common: Mapping[str, Any]
    pooled: tuple[str, ...]

    def baseline(self, group: Group, conditions: Mapping[str, Any]) -> Group | None:
        """The group that has these fields and is otherwise as `group`.

        **Arguments:**

        - `group`: of this table.
        - `conditions`: fields and their values.

        **Returns:**

        A group of this table, `None` where there is none such.
        """
        wanted = {**group.fields, **conditions}
        return next((g for g in self.groups if g.fields == wanted), None)

    def compare(
        self, group: Group, metric: str, conditions: Mapping[str, Any]
    ) -> WelchTest | None:
        """Welch's test of a group against its baseline, if it has another one.

        **Arguments:**

        - `group`: of this table.
        - `metric`: a column of the records.
        - `conditions`: fields of the baseline and their values.

        **Returns:**

        Effect, interval and test; `None` without a baseline.
        """
        baseline = self.baseline(group, conditions)
        if baseline is None or baseline is group:
            return None
        return welch(group.values(metric), baseline.values(metric))


def tabulate(
    records: Iterable[Record],
    *,
    by: Sequence[str] | None = None,
    seeds: Iterable[int] | None = None,
    sort: str | None = None,
) -> list[Table]:
    """Group runs by their configuration without the seed.

    **Arguments:**

    - `records`: from `read_records`.
    - `by`: the fields that tell groups apart, all others being pooled; by default all
        that differ.
    - `seeds`: those that each configuration should have; by default all that any has.
    - `sort`: a field or metric to sort by, the latter by its mean; with "-" in front
        from high to low. By default all fields, in turn.

    **Returns:**

    A table of the runs on real images and one of those on synthetic ones, as far as
    there are any.

    **Raises:**

    `UsageError` for a field that does not exist, and for a `sort` that says nothing.
    """
    records = list(records)
    fields = fields_of(records)
    if by is not None:
        by = tuple(dict.fromkeys(check_field(name, fields) for name in by))
    tables = []
    for synthetic in (False, True):
        chosen = [record for record in records if record.synthetic == synthetic]
        if chosen:
            wanted = {record.seed for record in chosen} if seeds is None else set(seeds)
            tables.append(_tabulate(chosen, synthetic, by, wanted, sort))
    return tables


def check_baseline(tables: Iterable[Table], conditions: Mapping[str, Any]):
    """Refuse a baseline that no group is, and so nothing can be compared with.

    **Arguments:**

    - `tables`: from `tabulate`.
    - `conditions`: fields of the baseline and their values.

    **Raises:**

    `UsageError` with what the tables tell apart.
    """
    tables = list(tables)
    for name in conditions:
        if not any(name in table.fields for table in tables):
            fields = dict.fromkeys(name for table in tables for name in table.fields)
            raise UsageError(
                f"no baseline {name}: what the table tells apart is {', '.join(fields)}"
            )
    for table in tables:
        for group in table.groups:
            if table.baseline(group, conditions) is group:
                return
    shown = ", ".join(f"{name}={value}" for name, value in conditions.items())
    raise UsageError(f"no row of the table has {shown} to be the baseline")


def measured_columns(tables: Iterable[Table]) -> list[str]:
    """The columns of log and sharpness that any run has numbers in.

    **Arguments:**

    - `tables`: from `tabulate`.

    **Returns:**

    Columns, those of the log first.
    """
    names: dict[str, None] = {}
    for table in tables:
        for group in table.groups:
            for record in group.done:
                names.update((k, None) for k, v in record.values.items() if v == v)
    return list(names)


def sharpness_columns(tables: Iterable[Table]) -> list[str]:
    """The measures of sharpness: those with a standard error, if any has one.

    **Arguments:**

    - `tables`: from `tabulate`.

    **Returns:**

    Columns of measures, in the order of the files.

    **Raises:**

    `UsageError` when no run has any.
    """
    tables = list(tables)
    names = measured_columns(tables)
    # The error of what is exact may be nan.
    done = (r for table in tables for group in table.groups for r in group.done)
    columns = {column for record in done for column in record.values}
    measures = [name for name in names if f"{name}_se" in columns]
    if not measures:
        measures = [name for name in names if name not in COLUMNS]
    if not measures:
        raise UsageError("no run has a sharpness.tsv with measures of sharpness")
    return measures


def _tabulate(
    records: list[Record],
    synthetic: bool,
    by: tuple[str, ...] | None,
    seeds: set[int],
    sort: str | None,
) -> Table:
    kinds = list({record.kind: record for record in records}.values())
    rest = (name for name in fields_of(kinds) if name not in (*_FIRST, "seed"))
    order = *_FIRST, *rest
    values = {name: {field_of(record, name) for record in kinds} for name in order}
    varying = [name for name in order if len(values[name]) > 1]
    if by is None:
        fields = *_FIRST, *(name for name in varying if name not in _FIRST)
    else:
        fields = by
    labels = {
        "arch": _labels(values["arch"], "."),
        "dataset": _labels(values["dataset"], "/"),
    }

    def shown(record: Record, name: str) -> Any:
        value = field_of(record, name)
        return labels[name][value] if name in labels else value

    grouped: dict[Any, list[Record]] = {}
    for record, data in _with_data(records):
        key = *(shown(record, name) for name in fields), data
        grouped.setdefault(key, []).append(record)
    if any(key[-1] for key in grouped):
        fields = *fields, "data"
    groups = [
        Group(
            dict(zip(fields, key, strict=False)),
            tuple(members),
            () if "seed" in fields else tuple(sorted(_missing(members, seeds))),
        )
        for key, members in grouped.items()
    ]
    return Table(
        tuple(sorted(groups, key=_order(sort, groups, fields))),
        synthetic,
        fields,
        {
            name: shown(records[0], name)
            for name in order
            if name not in varying
            and name not in fields
            and field_of(records[0], name) != DEFAULTS.get(name)
        },
        tuple(name for name in varying if name not in fields),
    )


def _labels(names: set[str], mark: str) -> dict[str, str]:
    # As little of the end of each as tells it from the others.
    def label(name: str) -> str:
        parts = name.split(mark)
        for count in range(1, len(parts)):
            end = mark.join(parts[-count:])
            if sum(f"{mark}{other}".endswith(f"{mark}{end}") for other in names) == 1:
                return end
        return name

    # A relative path may be the name of a dataset on the hub.
    short = {name for name in names if mark != "/" or os.path.isabs(name)}
    return {name: label(name) if name in short else name for name in names}


def _with_data(records: list[Record]) -> Iterator[tuple[Record, str]]:
    # A folder of images may have changed between runs of one configuration. Only then
    # is their digest told; a run that has not read them goes with the most.
    digests: dict[Hashable, Counter[str]] = {}
    for record in records:
        counter = digests.setdefault(record.kind, Counter())
        if record.data:
            counter[record.data] += 1
    for record in records:
        counter = digests[record.kind]
        usual = counter.most_common(1)[0][0] if counter else ""
        yield record, (record.data or usual)[:8] if len(counter) > 1 else ""


def _missing(records: list[Record], seeds: set[int]) -> Iterator[int]:
    found: dict[Hashable, set[int]] = {}
    for record in records:
        found.setdefault(record.kind, set()).add(record.seed)
    for present in found.values():
        yield from seeds - present


def _order(sort: str | None, groups: list[Group], fields: tuple[str, ...]) -> Any:
    if sort is None:
        return lambda group: list(map(natural, group.fields.values()))
    name = sort.removeprefix("-")
    sign = -1 if sort.startswith("-") else 1
    if name in FIELDS or name in fields:
        if name not in fields:
            raise UsageError(f"cannot sort by {name}: the table does not show it")
        ranks = sorted({group.fields[name] for group in groups}, key=natural)
        return lambda group: sign * ranks.index(group.fields[name])

    known = {key for group in groups for record in group.done for key in record.values}
    # While no run is done, nothing is measured yet.
    if known and name not in known:
        raise UsageError(f"cannot sort by {name}: it is no field, and not measured")

    def by_mean(group: Group):
        mean = group.summary(name).mean
        return (1, 0.0) if math.isnan(mean) else (0, sign * mean)

    return by_mean

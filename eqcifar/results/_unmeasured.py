"""What of some measures a run lacks, from its files alone."""

from collections.abc import Iterable, Mapping

from ..config import SharpnessOptions, TrainConfig
from ..errors import RunError
from ..measures import MEASURES, Measure, check_measures, column_name
from ..storage import Basis, Run, read_each_measure
from ._columns import error_of


def unmeasured(
    run: Run,
    measures: Iterable[str],
    splits: Iterable[str],
    options: SharpnessOptions,
) -> dict[str, tuple[str, ...]]:
    """What is still to be measured of a run's final network.

    A measure is there when its table has it, of the same target, from at least as many
    images as the options ask for, or within their `rtol`, whatever the seed.

    **Arguments:**

    - `run`: that is done.
    - `measures`: names in `eqcifar.measures.MEASURES`, or `all`.
    - `splits`: "train", "test" or "val".
    - `options`: how to measure.

    **Returns:**

    Names of measures by split; a split that has all is left out.

    **Raises:**

    `UsageError` for an unknown measure; `RunError` when a file cannot be read.
    """
    description, names = run.description(), check_measures(measures)
    config = TrainConfig.from_dict(description["config"])
    sizes = description["data"].get("examples", {})
    there = list(read_each_measure(run.path / "sharpness.tsv"))

    def is_there(name: str, split: str) -> bool:
        measure = MEASURES[name]
        column = column_name(measure.first_column(options.top), split, config, options)
        images = _images(sizes.get(split, 0), measure, options)
        return any(
            _is_alike(basis, options)
            and ((basis.images or 0) >= images or _is_precise(numbers, column, options))
            for each, numbers, basis in there
            if each == column
        )

    lacking = {
        split: tuple(name for name in names if not is_there(name, split))
        for split in splits
    }
    return {split: names for split, names in lacking.items() if names}


def is_measured(
    run: Run,
    measures: Iterable[str],
    splits: Iterable[str],
    options: SharpnessOptions,
) -> bool:
    """Whether `unmeasured` finds nothing; a run that cannot be read is not."""
    try:
        return not unmeasured(run, measures, splits, options)
    except RunError:
        return False


def _images(size: int, measure: Measure, options: SharpnessOptions) -> int:
    # As many as the options make of a split of that size.
    images = min(1000, size) if options.samples is None else options.samples or size
    if measure.most_images is not None:
        return min(images, measure.most_images)
    batch = min(options.batch_size, images)
    return images - images % batch if options.batch_statistics and batch else images


def _is_alike(basis: Basis, options: SharpnessOptions) -> bool:
    # The loss and the mode are in the column's name.
    how = dict(basis.convention)
    batch = str(options.batch_size) if options.batch_statistics else ""
    return how.get("target") == options.target and how.get("batch_size", "") == batch


def _is_precise(
    numbers: Mapping[str, float], column: str, options: SharpnessOptions
) -> bool:
    if options.rtol is None:
        return False
    error = error_of(numbers, column)
    return 1.96 * error <= options.rtol * abs(numbers[column])

"""The column of a measure in `sharpness.tsv`."""

from ..config import SharpnessOptions, TrainConfig
from ._measures import depends_on_loss

# What ends a column, by the split that its number is of.
SUFFIXES = {"train": "", "test": "_te", "val": "_va"}


def column_name(
    name: str, split: str, config: TrainConfig, options: SharpnessOptions
) -> str:
    """The column of a number: a loss or mode not the run's own is named.

    So are the parameters, where others are held fixed.

    **Arguments:**

    - `name`: of the number, such as "tr_hess".
    - `split`: "train", "test" or "val".
    - `config`: of the run.
    - `options`: how it is measured.
    """
    if depends_on_loss(name):
        if options.loss not in (None, config.loss):
            name = f"{name}_{options.loss}"
        if options.one_hot and config.label_smoothing:
            name = f"{name}_onehot"
    if options.batch_statistics:
        name = f"{name}_trainmode"
    if options.patterns:
        name = f"{name}@{','.join(options.patterns)}"
    return name + SUFFIXES[split]

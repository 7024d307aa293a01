"""What a measure is, without JAX: its files import what computes inside `compute`.

So the readers of ten thousand results know each column's meaning in no time.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..sharpness import Measured, Output, Task


@dataclasses.dataclass(frozen=True)
class Column:
    """One number of a measure; `{loss}` stands where it depends on the loss.

    - `meaning`: in one line.
    - `unit`: where `{loss}` is the loss's own unit; empty for a ratio.
    """

    meaning: str
    unit: str = ""


@dataclasses.dataclass(frozen=True)
class Picture:
    """How a table of a measure is drawn.

    - `draw`: called with a Matplotlib figure, the table of each split, the unit of the
        loss, and all that was found, by split and measure.
    - `of_loss`: whether the loss matters, and belongs into the title.
    - `has_interval`: whether a table shows one.
    """

    draw: Callable[..., None]
    of_loss: bool = True
    has_interval: Callable[[Mapping[str, Any]], bool] = lambda table: True


@dataclasses.dataclass(frozen=True)
class Measure:
    """A measure of sharpness: all that options, tables, plots and manual say of it.

    - `name`: as `eqcifar sharpness --measures` takes it.
    - `columns`: its numbers by name; a name that ends in `_k` stands for `_1`, `_2` and
        so on.
    - `compute`: from a `eqcifar.sharpness.Task` to a `Measured`, whose `values` are
        the columns.
    - `pictures`: of its tables, by name.
    - `output`: of `eqcifar.sharpness.Output`, what its traces are of; those that have
        one share a pass over the images.
    - `per_image`: takes images one by one, which batch statistics couple.
    - `usual`: measured unless others are asked for.
    - `whole`: of all parameters together, and not of some of them.
    - `most_images`: takes no more images than that, or as many as it is given.
    """

    name: str
    columns: Mapping[str, Column]
    compute: "Callable[[Task], Measured]"
    pictures: Mapping[str, Picture] = dataclasses.field(default_factory=dict)
    output: "Output | None" = None
    per_image: bool = False
    usual: bool = False
    whole: bool = False
    most_images: int | None = None

    def first_column(self, top: int) -> str:
        """The column that is there wherever the measure is, of so many eigenvalues."""
        name = next(iter(self.columns))
        return f"{name[:-1]}{top}" if name.endswith("_k") else name

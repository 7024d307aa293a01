import dataclasses
from pathlib import Path
from typing import Literal

from eqcifar.config import SharpnessOptions
from eqcifar.errors import UsageError
from eqcifar.measures import MEASURES, check_measures, usual_measures
from eqcifar.options import Options, option

from ._options import flag_of

_USUAL = usual_measures()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted(Options):
    """What `eqcifar sharpness` measures, and what of it is shown."""

    panel = "What"

    split: str = option("train", "train, test or val; several with commas.")
    measures: str | None = option(
        None,
        f"What to measure, with commas: {', '.join(_USUAL)} (by default); "
        f"{', '.join(name for name in MEASURES if name not in _USUAL)}; or all.",
    )
    how_many: float | None = option(
        None,
        "Only plan, from a pilot: the samples and probes for an interval of that "
        "relative half-width.",
    )
    layers: bool = option(False, "Show each layer's share of the trace.")
    classes: bool = option(False, "Show the trace for each class.")
    sharpest: int = option(
        0, "Show the K images of largest trace.", at_least=0, metavar="K"
    )
    checkpoints: bool = option(
        False,
        "Measure all networks that `train --keep-every` kept, into sharpness_log.tsv.",
    )
    plot: bool = option(False, "Draw what was measured, as PNG and SVG beside the run.")
    convention: Literal["eqcifar", "original"] = option(
        "eqcifar", "original: the six columns of sungyubkim/cifar_jax."
    )
    original_devices: int | None = option(
        None,
        "Devices of the original, which its tr_hess depends on; 8 by default.",
        at_least=1,
    )

    def __post_init__(self):
        super().__post_init__()
        if self.original_devices is not None and self.convention != "original":
            raise UsageError("--original-devices needs --convention original")
        shown = self.layers, self.classes, self.sharpest, self.plot, self.how_many
        if self.checkpoints and (any(shown) or self.convention == "original"):
            raise UsageError(
                "--checkpoints prints what was measured, a row an epoch: leave out "
                "--layers, --classes, --sharpest, --plot, --how-many and --convention"
            )

    def check_many(self, folder: Path):
        """Refuse what is shown or planned of one network alone.

        **Raises:**

        `UsageError` with what to leave out.
        """
        given = [
            flag_of(field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("split", "measures")
            and getattr(self, field.name) != field.default
        ]
        if given:
            raise UsageError(
                f"{folder} holds many runs, and {', '.join(given)} "
                f"{'are' if len(given) > 1 else 'is'} for one: name a run, or leave "
                f"{'them' if len(given) > 1 else 'it'} out"
            )

    def splits(self) -> list[str]:
        """Their names."""
        return list(dict.fromkeys(name.strip() for name in self.split.split(",")))

    def names(self, options: SharpnessOptions) -> tuple[str, ...]:
        """The measures: those asked for, or what suits the options.

        **Raises:**

        `UsageError` for a name that is none, or one that is missing.
        """
        text = self.measures
        if text is None and options.batch_statistics:
            text = "trace"
        if text is None:
            text = ",".join((*_USUAL, *["spectrum"] * self.plot))
        names = check_measures(name.strip() for name in text.split(","))
        if (self.layers or self.classes or self.sharpest) and "trace" not in names:
            raise UsageError(
                "--layers, --classes and --sharpest need the measure trace"
            )
        return names

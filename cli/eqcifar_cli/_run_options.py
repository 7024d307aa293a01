import dataclasses

from eqcifar.config import SharpnessOptions
from eqcifar.errors import UsageError
from eqcifar.measures import check_measures
from eqcifar.options import Options, option


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions(Options):
    """How a run is computed and shown: options of `train`, and of each of a sweep.

    Unlike the fields of `TrainConfig`, they decide none of its numbers.
    """

    panel = "Run"

    devices: int | None = option(
        None, "Number of devices that share each batch; all by default.", at_least=1
    )
    grad_accum: int = option(
        1,
        "Compute each batch in K pieces one after another, to save memory; the numbers "
        "stay the same. Needs a --bn-group that divides a piece.",
        at_least=1,
        metavar="K",
    )
    remat: bool = option(
        False,
        "Save memory by computing again, in the backward pass, all but convolutions.",
    )
    keep_every: int = option(
        0,
        "Keep the network of the start, of every K epochs and of the end, a model file "
        "each in checkpoints/, which every command takes; 0: none.",
        at_least=0,
        metavar="K",
    )
    track: tuple[str, ...] = option(
        (),
        "Show the log there too: tensorboard, wandb or trackio; may be given more than "
        "once.",
        metavar="TRACKER",
    )
    sharpness_every: int = option(
        0,
        "Measure sharpness every K epochs, into sharpness_log.tsv, which plots and "
        "trackers show; 0: never.",
        at_least=0,
        metavar="K",
    )
    sharpness_measures: str = option(
        "trace,ntk", "Which measures, as in `eqcifar sharpness`."
    )
    sharpness_samples: int = option(
        500, "On so many training images; 0: all.", at_least=0
    )

    measure: str = option(
        "",
        "Measure the trained network so, as `eqcifar sharpness --measures` does; "
        "nothing by default.",
        metavar="MEASURES",
    )
    samples: int | None = option(
        None,
        "On so many images of each split, of --measure; 0: all; by default 1000.",
        at_least=0,
    )
    split: str = option("train", "On these splits, with commas, of --measure.")

    stability_every: int = option(
        0,
        "Take the largest eigenvalue of the training loss every K steps, beside where "
        "the optimiser turns unstable, into stability.tsv; 0: never.",
        at_least=0,
        metavar="K",
    )
    stability_batches: int = option(
        1, "Of so many batches of training images, always the same.", at_least=1
    )

    def __post_init__(self):
        super().__post_init__()
        self.to_measure()

    def to_measure(self) -> tuple[tuple[str, ...], list[str], SharpnessOptions] | None:
        """Measures, splits and options of `measure`, or nothing.

        **Raises:**

        `UsageError` for a measure that is none, and where there is none to take.
        """
        if not self.measure:
            if self.samples is not None or self.split != "train":
                raise UsageError("--samples and --split need --measure")
            return None
        return (
            check_measures(name.strip() for name in self.measure.split(",")),
            list(dict.fromkeys(name.strip() for name in self.split.split(","))),
            SharpnessOptions(samples=self.samples),
        )

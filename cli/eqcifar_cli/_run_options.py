import dataclasses
from typing import Annotated, Any

import typer


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a run is computed and shown: options of `train`, and of each of a sweep.

    Unlike the fields of `TrainConfig`, they decide none of its numbers.
    """

    devices: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of devices that share each batch; all by default.",
            show_default=False,
            rich_help_panel="Run",
        ),
    ] = None
    grad_accum: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="K",
            help="Compute each batch in K pieces one after another, to save memory; "
            "the numbers stay the same. Needs a --bn-group that divides a piece.",
            rich_help_panel="Run",
        ),
    ] = 1
    remat: Annotated[
        bool,
        typer.Option(
            "--remat",
            help="Save memory by computing again, in the backward pass, all but "
            "convolutions.",
            rich_help_panel="Run",
        ),
    ] = False
    track: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TRACKER",
            help="Show the log there too: tensorboard, wandb or trackio; may be given "
            "more than once.",
            show_default=False,
            rich_help_panel="Run",
        ),
    ] = None
    sharpness_every: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="K",
            help="Measure sharpness every K epochs, into sharpness_log.tsv, which "
            "plots and trackers show; 0: never.",
            rich_help_panel="Run",
        ),
    ] = 0
    sharpness_measures: Annotated[
        str,
        typer.Option(
            help="Which measures, as in `eqcifar sharpness`.", rich_help_panel="Run"
        ),
    ] = "trace,ntk"
    sharpness_samples: Annotated[
        int,
        typer.Option(
            min=0, help="On so many training images; 0: all.", rich_help_panel="Run"
        ),
    ] = 500

    def arguments(self) -> list[str]:
        """The arguments of `eqcifar train` that mean the same, without defaults."""
        words: list[str] = []
        for field in dataclasses.fields(self):
            value: Any = getattr(self, field.name)
            flag = "--" + field.name.replace("_", "-")
            if value == field.default:
                continue
            if value is True:
                words.append(flag)
                continue
            for each in value if isinstance(value, list) else [value]:
                words += [flag, str(each)]
        return words

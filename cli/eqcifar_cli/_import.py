import json
from pathlib import Path
from typing import Annotated

import typer

from eqcifar.config import ImportOptions

from ._options import with_options
from ._output import print_warning, say


@with_options
def import_(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="A PyTorch state dict: safetensors, or a file of torch.save.",
            show_default=False,
        ),
    ],
    options: ImportOptions,
    *,
    classes: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="Of its outputs, in order, with commas; the data's own by default.",
            show_default=False,
        ),
    ] = "",
    origin: Annotated[
        str,
        typer.Option(
            help="Where it is from, for tables; by default the file's name.",
            show_default=False,
        ),
    ] = "",
    names: Annotated[
        Path | None,
        typer.Option(
            "--map",
            metavar="MAP",
            help="JSON or TOML: the name there of each array here; found by itself "
            "for the namings that are known.",
            show_default=False,
        ),
    ] = None,
    show_map: Annotated[
        bool, typer.Option("--show-map", help="Print such a map, and import nothing.")
    ] = False,
    evaluate: Annotated[
        bool, typer.Option("--eval/--no-eval", help="Measure it on the test images.")
    ] = True,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of all runs.")
    ] = Path("results"),
):
    """Make a run of a network that PyTorch trained, which every command takes.

    Names are found by themselves for the ResNets of torchvision, timm,
    kuangliu/pytorch-cifar, chenyaofo/pytorch-cifar-models and
    weiaicunzai/pytorch-cifar100, xternalz/WideResNet-pytorch and VGGs with BatchNorm,
    under any prefix, such as module. and model. of DataParallel and Lightning. Nothing
    in the file is run.
    """
    from eqcifar import exchange, runs

    from ._jax import keep_compilations

    keep_compilations()
    given = [name.strip() for name in classes.split(",")] if classes else []
    if show_map:
        count = len(given) or len(runs.load_data(options.config()).classes)
        found = exchange.open_foreign(file, options, count, names)
        typer.echo(json.dumps(found.match.names, indent=2))
        return
    run = exchange.import_model(
        file,
        options,
        out,
        classes=given,
        origin=origin,
        names=names,
        measure=evaluate,
        warn=print_warning,
    )
    mean, std = (" ".join(map(str, x)) for x in (options.mean, options.std))
    say(f"Imported into {run.path}, for pixels normalised by --mean {mean} --std {std}")
    if evaluate:
        (row,) = run.log()
        right = f"{row['acc_te']:.2%} of the test images are right"
        say(f"{right}, loss {row['loss_te']:.4f}")

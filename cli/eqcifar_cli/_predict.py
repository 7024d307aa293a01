from pathlib import Path
from typing import Annotated

import typer

from ._measuring import Json, RunFolder
from ._output import console, print_json, print_table, print_warning, say


def predict(
    run: RunFolder,
    image: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE",
            help="Image files of any size, or folders of them.",
            show_default=False,
        ),
    ],
    top: Annotated[int, typer.Option(help="Classes to show an image.", min=1)] = 5,
    as_json: Json = False,
):
    """Say what a trained network sees in images.

    Of each image, the central square is scaled to the size that CIFAR has.
    """
    from eqcifar import exchange, runs
    from eqcifar.losses import LOSSES

    from ._jax import keep_compilations

    keep_compilations()
    loaded = runs.load_model(run)
    read = exchange.read_images(image)
    for error in read.errors.values():
        print_warning(str(error))
    for what, count in read.assumed.items():
        say(f"{what} ({count} of {len(read.paths)} images)", console(stderr=True))
    guesses = exchange.classify(loaded, read.pixels, top)
    config, synthetic = loaded.config, loaded.header["data"]["synthetic"]
    if as_json:
        print_json(
            {
                "run": str(run),
                "arch": config.arch,
                "seed": config.seed,
                "trained_on": config.dataset,
                "synthetic": synthetic,
                "loss_name": config.loss,
                "images": [
                    {"image": str(path), "top": [vars(guess) for guess in best]}
                    for path, best in zip(read.paths, guesses, strict=True)
                ],
                "unreadable": [str(path) for path in read.errors],
            }
        )
    else:
        print_table(
            f"{run}: {config.arch}, trained on "
            f"{'SYNTHETIC images' if synthetic else config.dataset}",
            ("image", "class", "probability"),
            [
                (
                    "" if rank else str(path),
                    guess.name,
                    f"{100 * guess.probability:.2f} %",
                )
                for path, best in zip(read.paths, guesses, strict=True)
                for rank, guess in enumerate(best)
            ],
        )
        about = LOSSES.get(config.loss, LOSSES["ce"]).probabilities_are
        say(f"Trained with {config.loss}: probabilities are {about}.")
    if read.errors:
        raise typer.Exit(1)

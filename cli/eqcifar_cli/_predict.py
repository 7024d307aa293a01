from pathlib import Path
from typing import Annotated

import typer

from ._measuring import Json
from ._output import print_json, print_table, print_warning


def predict(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="Folder of a run, or a model file.", show_default=False
        ),
    ],
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
    from collections import Counter

    import numpy as np

    from eqcifar import data, exchange, runs
    from eqcifar.errors import UsageError
    from eqcifar.losses import LOSSES

    from ._jax import keep_compilations

    keep_compilations()
    found = exchange.find_images(image)
    loaded = runs.load_model(run)
    images, errors, assumed = {}, {}, Counter()
    for path in found:
        try:
            images[path] = data.read_image(path, assumed=assumed)
        except UsageError as error:
            errors[path] = error
    if not images:
        raise next(iter(errors.values()))
    for error in errors.values():
        print_warning(str(error))
    for what, count in assumed.items():
        typer.echo(f"{what} ({count} of {len(images)} images)", err=True)

    guesses = exchange.classify(loaded, np.stack(list(images.values())), top)
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
                    for path, best in zip(images, guesses, strict=True)
                ],
                "unreadable": [str(path) for path in errors],
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
                for path, best in zip(images, guesses, strict=True)
                for rank, guess in enumerate(best)
            ],
        )
        about = LOSSES.get(config.loss, LOSSES["ce"]).probabilities_are
        typer.echo(f"Trained with {config.loss}: probabilities are {about}.")
    if errors:
        raise typer.Exit(1)

from typing import Annotated

import typer

from ._measuring import RunFolder
from ._output import say

Repo = Annotated[
    str,
    typer.Argument(
        metavar="ORG/NAME", help="The repository on the hub.", show_default=False
    ),
]


def push(
    run: RunFolder,
    repo: Repo,
    licence: Annotated[
        str,
        typer.Option(
            "--license",
            metavar="NAME",
            help="Of the weights, as the hub calls it, such as mit or cc-by-4.0.",
            show_default=False,
        ),
    ] = "",
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository a private one.")
    ] = False,
):
    """Put a run on the Hugging Face hub: weights, configuration, log and sharpness.

    Its model card has accuracy and sharpness with 95 % intervals, which the hub reads.
    HF_TOKEN or `hf auth login` says who you are.
    """
    from eqcifar import exchange

    name = exchange.push_run(run, repo, licence=licence, private=private)
    say(f"Pushed {run}: from anywhere, it is {name}")

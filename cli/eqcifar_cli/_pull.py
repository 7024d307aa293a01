from pathlib import Path
from typing import Annotated

import typer

from ._output import say
from ._push import Repo


def pull(
    repo: Repo,
    revision: Annotated[
        str | None,
        typer.Option(
            help="A branch, a tag or a commit; the newest commit by default.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of all runs.")
    ] = Path("results"),
):
    """Fetch a run from the Hugging Face hub, for everything that takes a run.

    The same happens where `hf://ORG/NAME` or `hf://ORG/NAME@REVISION` stands for a run.
    Only files called as those of a run are fetched, and nothing in them is run.
    """
    from eqcifar import storage

    run = storage.pull_run(repo.removeprefix("hf://"), revision, out)
    say(f"{repo} is {run.path}")

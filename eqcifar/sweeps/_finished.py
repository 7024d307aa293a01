import os
from collections.abc import Hashable

from ..config import TrainConfig
from ..errors import EqcifarError, RunError
from ..storage import Run


def is_done(run: Run) -> bool:
    """Whether a run is done; one whose state cannot be read is not."""
    try:
        return run.is_done()
    except RunError:
        # The process that trains it will say what cannot be read.
        return False


def why_changed(run: Run, config: TrainConfig, known: dict[Hashable, str]) -> str:
    """Why a finished run is not its configuration's any more; empty where it is.

    The arguments are those of `check_folder`.
    """
    if not os.path.isdir(os.path.expanduser(config.dataset)):
        return ""
    # Here, for it imports JAX.
    from ..runs import check_folder

    try:
        check_folder(run, config, known)
    except EqcifarError as error:
        return str(error)
    return ""

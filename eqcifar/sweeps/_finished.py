from collections.abc import Callable

from ..config import TrainConfig
from ..errors import RunError
from ..storage import Run

# Says why a finished run is not its configuration's any more; empty where it is.
Check = Callable[[Run, TrainConfig], str]

# Says whether nothing is left to do for a run.
Done = Callable[[Run], bool]


def is_done(run: Run) -> bool:
    """Whether a run is done; one whose state cannot be read is not."""
    try:
        return run.is_done()
    except RunError:
        # The process that trains it will say what cannot be read.
        return False


def no_check(run: Run, config: TrainConfig) -> str:
    """A check that takes every finished run for its configuration's."""
    return ""

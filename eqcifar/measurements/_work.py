"""A measurement that survives an interruption, and ends as a row of a table."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..parallel import make_mesh
from ..runs import environment
from ..sharpness import Estimate, Rows
from ..storage import Cell, append_wide
from ._measured_network import MeasuredNetwork, SharpnessOptions
from ._unfinished import Unfinished

Show = Callable[[str, str, int, int, Callable[[], Estimate | None]], None]
Warn = Callable[[str], None]


def silent(*_: Any):
    """Report and warn of nothing."""


class Work:
    """One measurement of a network, which an equal call goes on with.

    - `mesh`: the devices it runs on.
    - `unfinished`: what an equal call left: of the same network, options and machine.
    """

    def __init__(
        self,
        trained: MeasuredNetwork,
        options: SharpnessOptions,
        what: str,
        *,
        devices: int | None = None,
        warn: Warn = silent,
    ):
        """Everything goes into its name on which bits are promised to depend.

        **Arguments:**

        - `what`: tells different measurements of a network apart.
        - `devices`: how many; all by default.
        - `warn`: called with a line when nothing can be kept.
        """
        self.mesh = make_mesh(devices)
        where = environment(self.mesh.size)
        del where["git"]
        parts = (
            *(what, trained.digest, trained.dataset.fingerprint, repr(options)),
            json.dumps(where, sort_keys=True, default=str),
        )
        fingerprint = hashlib.sha256("\0".join(parts).encode()).hexdigest()
        self._trained = trained
        self.unfinished = Unfinished(trained.table, fingerprint, warn)

    @contextlib.contextmanager
    def keeping(
        self, label: str, report: Callable[..., None]
    ) -> Iterator[tuple[dict[str, Rows], Callable[..., None]]]:
        """The pieces kept under a label, and a report that saves them now and then."""
        with self.unfinished.keeping(label) as (rows, save):

            def follow(*work: Any):
                report(*work)
                save()

            yield rows, follow

    def append(self, row: Mapping[str, Cell] | None):
        """Append a row to the network's table; what was unfinished is done with.

        No row of other images than those of the network's training is appended.
        """
        if row is not None and self._trained.same_data:
            append_wide(self._trained.table, row)
        self.unfinished.forget()

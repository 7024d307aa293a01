import contextlib
import ctypes
import os
import signal
from collections.abc import Iterator

import jax
import typer

from eqcifar import parallel
from eqcifar.errors import UsageError
from eqcifar.sweeps import START_AGAIN


def join(coordinator: str | None, processes: int | None, process_id: int | None):
    """Join the other processes of a run, as a cluster or the options name them."""
    by_hand = coordinator, processes, process_id
    if by_hand != (None, None, None):
        if coordinator is None or processes is None or process_id is None:
            raise UsageError(
                "--coordinator, --processes and --process-id go together: give all 3"
            )
        if process_id >= processes:
            raise UsageError(
                f"--process-id {process_id} of {processes} processes: numbers are "
                f"from 0 to {processes - 1}"
            )
    parallel.initialise(*by_hand)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """End this process with a line when another has ended, or hangs."""
    if jax.process_count() > 1:
        _catch_aborts()
    leave = parallel.watch_others(
        lambda lost: _end(
            f"no sign of life from process {', '.join(map(str, lost))} for 20 s"
        )
    )
    try:
        yield
    except typer.Exit:
        leave()
        raise
    except Exception as error:
        if not parallel.is_lost_connection(error):
            raise
        _end(_LOST)
    leave()


_LOST = "the connection to another process is lost"
_Handler = ctypes.CFUNCTYPE(None, ctypes.c_int)


@_Handler
def _on_abort(number: int):
    _end(f"JAX aborted, as it does when {_LOST}")


def _catch_aborts():
    # JAX's client aborts, from a thread of C++, as soon as process 0 is gone. Python's
    # own handlers would run only after that, and never.
    if os.name == "posix":
        handle = ctypes.CDLL(None).signal
        handle.argtypes, handle.restype = [ctypes.c_int, _Handler], ctypes.c_void_p
        handle(signal.SIGABRT, _on_abort)


def _end(what: str):
    line = (
        f"Error: {what}: it has ended or hangs, and its own output may say why. Start "
        "all processes again to go on after the last checkpoint."
    )
    # Any lock may be held for ever, and leaving in order would wait for the others.
    os.write(2, f"\n{line}\n".encode())
    os._exit(START_AGAIN)

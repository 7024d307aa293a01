"""Objects in processes of their own, which compute when it is their turn."""

import multiprocessing
import os
from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock


class Remote:
    """An object made in a new process; calls of its methods wait for the answers.

    `variables` are added to the environment of the process.
    """

    def __init__(
        self,
        make: Callable[..., Any],
        *arguments: Any,
        variables: Mapping[str, str] | None = None,
    ):
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, make, arguments))
        with mock.patch.dict(os.environ, variables or {}):
            self._process.start()
        other.close()

    def call(self, method: str, *arguments: Any) -> Any:
        """What the object's method returns."""
        self._connection.send((method, *arguments))
        return self._connection.recv()

    def stop(self):
        """End the process."""
        self._connection.send(None)
        self._process.join()


def _serve(connection: Any, make: Callable[..., Any], arguments: tuple):
    it = make(*arguments)
    while (call := connection.recv()) is not None:
        method, *rest = call
        connection.send(getattr(it, method)(*rest))

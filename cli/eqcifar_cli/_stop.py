import os
import signal
import socket
import threading
import time
from typing import Any

from eqcifar.runs import STOP_AT_EOF

_SIGNALS = signal.SIGINT, signal.SIGTERM
_SHOW_CURSOR = b"\x1b[?25h"
_ONE_SIGTERM = 5.0


class StopRequest:
    """Remembers a first Ctrl-C or SIGTERM; a second one ends the process at once.

    It does so from `listen()` to the end of the `with` block. Python runs its signal
    handlers between bytecodes, so never during a compilation or a long step. The
    interpreter's C handler writes each signal's number to a socket, and a thread reads
    it there without delay.

    SIGTERM counts once in 5 s: schedulers send it to a process, to its group and to its
    parent, which passes it on. For a process of a sweep, the end of its standard input
    is a Ctrl-C too: whoever started it has ended.
    """

    number: int | None = None

    def __init__(self):
        self._listening, self._since = False, 0.0

    def __enter__(self) -> "StopRequest":
        self._restore: list[Any] = []
        if os.environ.get(STOP_AT_EOF):
            threading.Thread(target=self._watch_input, daemon=True).start()
        return self

    def __exit__(self, *_: Any):
        for undo, *arguments in reversed(self._restore):
            undo(*arguments)

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.number is not None

    def listen(self):
        """Begin; what was set to happen at a signal happens again after the block."""
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        self._restore.append((writer.close,))
        for number in _SIGNALS:
            before = signal.signal(number, lambda *_: None)
            self._restore.append((signal.signal, number, before))
        before = signal.set_wakeup_fd(writer.fileno())
        self._restore.append((signal.set_wakeup_fd, before))
        self._listening = True
        threading.Thread(target=self._watch, args=(reader,), daemon=True).start()

    def _watch(self, reader: socket.socket):
        with reader:
            while received := reader.recv(1):
                if received[0] in _SIGNALS:
                    self._receive(received[0])

    def _watch_input(self):
        while os.read(0, 1):
            pass
        self._receive(signal.SIGINT)

    def _receive(self, number: int):
        if self._listening and self.number is None:
            self.number, self._since = number, time.monotonic()
            os.write(2, b"\nStopping to save; once more to quit at once.\n")
            return
        again = time.monotonic() - self._since < _ONE_SIGTERM
        if number == signal.SIGTERM and again:
            return
        if os.isatty(1):
            os.write(1, _SHOW_CURSOR)
        os._exit(128 + number)

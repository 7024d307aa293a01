import os
import signal
import socket
import threading
from typing import Any

_SIGNALS = signal.SIGINT, signal.SIGTERM
_SHOW_CURSOR = b"\x1b[?25h"


class StopRequest:
    """Remembers a first Ctrl-C or SIGTERM; a second one ends the process at once.

    It does so from `listen()` to the end of the `with` block. Python runs its signal
    handlers between bytecodes, so never during a compilation or a long step. The
    interpreter's C handler writes each signal's number to a socket, and a thread reads
    it there without delay.
    """

    number: int | None = None

    def __enter__(self) -> "StopRequest":
        self._restore: list[Any] = []
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
        threading.Thread(target=self._watch, args=(reader,), daemon=True).start()

    def _watch(self, reader: socket.socket):
        with reader:
            while received := reader.recv(1):
                if received[0] not in _SIGNALS:
                    continue
                if self.number is not None:
                    if os.isatty(1):
                        os.write(1, _SHOW_CURSOR)
                    os._exit(128 + received[0])
                self.number = received[0]
                os.write(2, b"\nStopping to save; once more to quit at once.\n")

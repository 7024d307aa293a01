import os
import signal
import socket
import threading


class StopRequest:
    """Remembers a first Ctrl-C or SIGTERM; a second one ends the process at once.

    Python runs its signal handlers between bytecodes, so never during a compilation or
    a long step. The interpreter's C handler writes each signal's number to a socket,
    and a thread reads them there without delay.
    """

    number: int | None = None

    def __init__(self):
        self._reader, writer = socket.socketpair()
        writer.setblocking(False)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(writer.fileno())
        self._writer = writer
        threading.Thread(target=self._watch, daemon=True).start()

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.number is not None

    def _watch(self):
        while True:
            number = self._reader.recv(1)[0]
            if number not in (signal.SIGINT, signal.SIGTERM):
                continue
            if self.number is not None:
                os._exit(128 + number)
            self.number = number
            os.write(2, b"\nStopping to save; once more to quit at once.\n")

import contextlib
import importlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterable
from typing import Any

from eqcifar.sweeps import BY_KEYBOARD, START_AGAIN, STOP_AT_EOF

from ._output import say

termios: Any = importlib.import_module("termios") if os.name == "posix" else None
_SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
]
_ALWAYS = signal.SIGINT, signal.SIGTERM
_SHOW_CURSOR = b"\x1b[?25h"
_STOPPING = "Stopping to save; once more to quit at once."
_ONE_SIGTERM = 5.0
_PATIENCE = 1.0


class StopRequest:
    """Remembers a first signal to stop; a second Ctrl-C ends the process at once.

    The signals are Ctrl-C, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2; the last three unless
    they are ignored, as SIGHUP is after `nohup`. In the `with` block they end the
    process at once until `listen()`, for nothing is lost by then (Ctrl-C as Python
    does), and are remembered after it. Python runs its signal handlers between
    bytecodes, so never during a compilation or a long step. The interpreter's C handler
    writes each signal's number to a socket, and a thread reads it there without delay.

    A second SIGTERM ends the process too, but counts once in 5 s: schedulers send it to
    a process, to its group and to its parent, which passes it on. Other signals warn of
    an end to come, and never put an end to saving. For a process of a sweep, the end of
    its standard input is a Ctrl-C too: whoever started it has ended.
    """

    number: int | None = None

    def __init__(self, live: Any = None):
        """Nothing is caught yet.

        **Arguments:**

        - `live`: the Rich `Live` or `Progress` that a terminal shows meanwhile, which
            makes room for what is said here.
        """
        self._live = live
        self._listening, self._since = False, 0.0
        self._said = threading.Event()

    def __enter__(self) -> "StopRequest":
        self._restore: list[Any] = []
        if os.environ.get(STOP_AT_EOF):
            threading.Thread(target=self._watch_input, daemon=True).start()
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        self._restore.append((writer.close,))
        self._terminals = [fd for fd in (1, 2) if os.isatty(fd)]
        before = signal.set_wakeup_fd(writer.fileno())
        self._restore.append((signal.set_wakeup_fd, before))
        self._numbers = [
            number
            for number in _SIGNALS
            if number in _ALWAYS or signal.getsignal(number) != signal.SIG_IGN
        ]
        for number in self._numbers:
            self._restore.append((signal.signal, number, signal.getsignal(number)))
        self._catch(number for number in self._numbers if number != signal.SIGINT)
        if self._live is not None and self._shown():
            self._hide_keys()
        threading.Thread(target=self._watch, args=(reader,), daemon=True).start()
        return self

    def __exit__(self, *_: Any):
        for undo, *arguments in reversed(self._restore):
            undo(*arguments)

    def __call__(self) -> bool:
        """Whether to stop."""
        if self.number is None:
            return False
        # What is said and the end of what is shown would mix.
        self._said.wait(_PATIENCE)
        return True

    def listen(self):
        """Stop no more at once: what is begun can be saved from here on."""
        # Again, for `jax.distributed` takes SIGTERM for itself.
        self._catch(self._numbers)
        self._listening = True

    def _catch(self, numbers: Iterable[int]):
        for number in numbers:
            signal.signal(number, lambda *_: None)

    def _watch(self, reader: socket.socket):
        with reader:
            while received := reader.recv(1):
                early = received[0] == signal.SIGINT and not self._listening
                if received[0] in self._numbers and not early:
                    self._receive(received[0])

    def _watch_input(self):
        while os.read(0, 1):
            pass
        self._receive(signal.SIGINT)

    def _receive(self, number: int):
        if number == getattr(signal, "SIGHUP", None):
            self._leave_terminals()
        if not self._listening:
            os._exit(exit_code(number))
        if self.number is None:
            self.number, self._since = number, time.monotonic()
            self._say(_STOPPING)
            self._said.set()
            return
        again = time.monotonic() - self._since >= _ONE_SIGTERM
        if number == signal.SIGINT or (
            number == self.number == signal.SIGTERM and again
        ):
            self._clear()
            os._exit(128 + number)

    def _hide_keys(self):
        # "^C" at the end of a full line begins another, which nothing would remove.
        if termios is None or not os.isatty(0) or not _is_in_front():
            return
        modes = termios.tcgetattr(0)
        self._restore.append((_set_modes, modes[:]))
        modes[3] &= ~termios.ECHOCTL
        _set_modes(modes)

    def _leave_terminals(self):
        # They are gone, and writing there would fail before all is saved.
        nothing = os.open(os.devnull, os.O_RDWR)
        for fd in self._terminals:
            os.dup2(nothing, fd)
        os.close(nothing)

    def _say(self, line: str):
        if self._live is not None and self._shown():
            # Anything else would leave what is shown behind in pieces.
            say(line, self._live.console)
        else:
            os.write(2, f"\n{line}\n".encode())

    def _clear(self):
        if self._live is not None and self._shown():
            # The main thread may hold what this waits for.
            stop = threading.Thread(target=self._live.stop, daemon=True)
            stop.start()
            stop.join(_PATIENCE)
        for undo, *arguments in self._restore:
            if undo is _set_modes:
                undo(*arguments)
        if os.isatty(1):
            os.write(1, _SHOW_CURSOR)

    def _shown(self) -> bool:
        console = self._live.console
        return console.is_interactive and not console.quiet


def _is_in_front() -> bool:
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        # A terminal that is another session's, as after `setsid`.
        return False


def _set_modes(modes: list[Any]):
    # A terminal that is gone, or another's by now, is left alone.
    with contextlib.suppress(OSError, termios.error):
        if os.tcgetpgrp(0) == os.getpgrp():
            termios.tcsetattr(0, termios.TCSANOW, modes)


def exit_code(number: int) -> int:
    """What to exit with when all is saved after a signal."""
    return BY_KEYBOARD if number == signal.SIGINT else START_AGAIN

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

STOP_AT_EOF = "EQCIFAR_STOP_AT_EOF"


# Exit codes of a command that was stopped and has saved: EX_TEMPFAIL of sysexits.h for
# "start me again", and that of Ctrl-C, at which a shell ends its loops too.
START_AGAIN, BY_KEYBOARD = 75, 128 + signal.SIGINT


class Child:
    """A command that trains, in a process of its own, its output added to a log.

    It outlives this process by no more than it takes to save: it holds the reading end
    of a pipe as its standard input, whose end is its signal to stop. A Ctrl-C in the
    terminal does not reach it, for then it would be told twice.
    """

    def __init__(self, command: Sequence[str], log: Path, env: Mapping[str, str]):
        """Start the command.

        **Arguments:**

        - `command`: program and arguments.
        - `log`: the file that takes its output; its folder is made if necessary.
        - `env`: what its environment has besides that of this process.

        **Raises:**

        `OSError` when the log or the process cannot be had.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log
        with open(log, "ab") as file:
            self._begin = file.tell()
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **env, STOP_AT_EOF: "1"},
                start_new_session=True,
            )

    def poll(self) -> int | None:
        """The exit code, or `None` while it runs; minus the signal that killed it."""
        code = self._process.poll()
        if code is not None and self._process.stdin:
            self._process.stdin.close()
        return code

    def wait(self):
        """Wait for its end; a signal handler may do so while this process does."""
        if not hasattr(os, "waitid"):
            self._process.wait()
            return
        # `Popen.wait` has a lock, for which the handler would wait for ever.
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)

    def stop(self):
        """Ask it to save and end; asked a second time, it ends at once."""
        self._process.send_signal(signal.SIGTERM)

    def tail(self, lines: int = 5) -> list[str]:
        """The last lines it has written."""
        with open(self._log, "rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(self._begin, end - 4000))
            text = file.read().decode(errors="replace")
        return [line for line in text.splitlines() if line.strip()][-lines:]

    def why(self) -> str:
        """What made it fail, in a line: its last, or the signal that killed it."""
        code = self.poll()
        if code is not None and code < 0:
            return f"killed by {signal.Signals(-code).name}"
        return next(iter(self.tail(1)), f"ended with exit code {code}, without a word")

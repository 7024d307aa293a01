import os
import socket
from collections.abc import Mapping
from typing import Any

STATES = "done", "running", "interrupted", "failed", "unreadable"


def current_state(status: Mapping[str, Any]) -> str:
    """The state that a `status.json` means now, see `Run.state`.

    **Arguments:**

    - `status`: what `status.json` says.

    **Returns:**

    One of `STATES`.
    """
    state = status.get("state")
    if state == "unknown":
        return "interrupted"
    if state == "running" and status.get("host") == socket.gethostname():
        return state if _is_alive(status.get("pid")) else "interrupted"
    return state if isinstance(state, str) and state in STATES else "unreadable"


def _is_alive(pid: Any) -> bool:
    # On Windows, signal 0 is Ctrl-C.
    if type(pid) is not int or pid <= 0 or os.name == "nt":
        return os.name == "nt"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True

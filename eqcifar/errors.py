"""The failures a user can mend: each message says what is wrong and what to do."""

import difflib
from collections.abc import Iterable

# So many names go into a line beside the nearest of them, and so many at all.
_FEW, _MOST = 10, 40


class EqcifarError(Exception):
    """A failure with a one-line message meant for the user."""


class UsageError(EqcifarError):
    """What was asked for cannot be done as asked. The command line exits with 2."""


class RunError(EqcifarError):
    """A well-formed request failed while it ran. The command line exits with 1."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """What to raise for a name that is none of those that there are.

    **Arguments:**

    - `kind`: of what it should be the name, such as "recipe".
    - `name`: what was given.
    - `known`: the names that there are.

    **Returns:**

    An error with the nearest name, and with all of them where there is none or they
    are few.
    """
    names = {each.lower(): each for each in known}
    near = difflib.get_close_matches(name.lower(), names, n=1)
    text = f"unknown {kind} {name!r}"
    if near:
        text += f"; did you mean {names[near[0]]!r}?"
    if not near or len(names) <= _FEW:
        some = [*names.values()][:_MOST] + ["..."] * (len(names) > _MOST)
        text += f"{' There' if near else '; there'} are {', '.join(some)}"
    return UsageError(text)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the host or a device has no room left."""
    # By its name, for what reads results never imports JAX.
    by_jax = type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError")
    text = str(error).lower()
    told = "resource_exhausted" in text or "out of memory" in text
    return isinstance(error, MemoryError) or (by_jax and told)

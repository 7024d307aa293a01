"""Packages that only some commands need, imported when one of these is used."""

import importlib
from types import ModuleType

from .errors import UsageError


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import a package that one of this package's extras installs.

    **Arguments:**

    - `module`: the name to import.
    - `extra`: which one of `eqcifar[...]` installs it.
    - `purpose`: what needs it, to begin the message with.

    **Raises:**

    `UsageError` naming the extra, when it cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = getattr(error, "name", None) == module.partition(".")[0]
        reason = "" if missing else f", which cannot be imported ({error})"
        raise UsageError(
            f'{purpose} needs {module}{reason}: pip install "eqcifar[{extra}]"'
        ) from error

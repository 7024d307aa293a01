import functools
import hashlib
import inspect
from typing import Any

import jax
import numpy as np
import optax

from ..losses import own_name


def part_name(part: Any) -> str:
    """What `config.json` calls an optimiser or a schedule of one's own.

    `module.name` of a function, of what a partial calls, or of who made a closure; of
    the last two with 8 digits of the SHA-256 of all that they hold, as `optax.adamw` of
    other numbers is another.
    """
    function = part.update if isinstance(part, optax.GradientTransformation) else part
    name, _, _ = own_name(function).partition(".<locals>")
    held = _held(function)
    if not held:
        return name
    return f"{name}#{hashlib.sha256(repr(held).encode()).hexdigest()[:8]}"


def _held(function: Any) -> list[Any]:
    """The names and values that a function has from elsewhere, and theirs."""
    if isinstance(function, functools.partial):
        values = [("func", function.func), *enumerate(function.args)]
        values += sorted(function.keywords.items())
    elif inspect.isfunction(function):
        values = sorted(inspect.getclosurevars(function).nonlocals.items())
    else:
        return []
    return [(name, _described(value)) for name, value in values]


def _described(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        array = np.asarray(value)
        return str(array.dtype), array.shape, array.tobytes()
    if isinstance(value, tuple | list):
        return [_described(one) for one in value]
    if isinstance(value, dict):
        return [(repr(key), _described(one)) for key, one in value.items()]
    return own_name(value), _held(value)

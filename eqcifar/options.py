"""Frozen dataclasses whose fields carry their help and their bounds.

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Probing(Options):
        panel = "Probes"

        probes: int = option(2, "Random vectors an image; 0: exact.", at_least=0)
        rtol: float | None = option(None, "Stop at that relative error.", above=0)
        loss: Literal["mse", "ce"] | None = option(None, "The run's own by default.")

What is out of bounds is refused when such an object is made, in one line. A command of
the command line takes an option for each field by naming the class as the type of a
parameter, see `eqcifar_cli._options`:

    @with_options
    def probe(options: Probing, *, out: Out = Path("results")): ...
"""

import dataclasses
import inspect
import math
import numbers
import operator
import types
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin

from .errors import UsageError, unknown

_Own = TypeVar("_Own", bound="Options")


def option(
    default: Any,
    help: str,
    *,
    above: int | float | None = None,
    at_least: int | float | None = None,
    below: int | float | None = None,
    at_most: int | float | None = None,
    divides: str | None = None,
    choices: tuple[str, ...] = (),
    short: str | None = None,
    metavar: str | None = None,
) -> Any:
    """A field of an `Options` class.

    **Arguments:**

    - `default`: its value unless another is given; `None` only where its type has it.
    - `help`: one line, for `--help` and the manual.
    - `above`, `at_least`, `below`, `at_most`: bounds of a number, or of each number of
        a tuple.
    - `divides`: the field that it must divide, where it is not 0.
    - `choices`: of a `str`; one with a dot is the name of something of one's own, that
        only Python can give. A `Literal` type says its choices itself.
    - `short`, `metavar`: of the option of the command line, such as `-b` and `K`.
    """
    given = dict(locals())
    del given["default"]
    return dataclasses.field(default=default, metadata=given)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What can be set: each field is an `option`, checked when an object is made.

    `panel` is the title of the fields that the class adds, in `--help`.

    **Raises:**

    `UsageError` naming the field, its value and what is allowed.
    """

    panel: ClassVar[str] = "Options"

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            own = typed(field.name, field.type, value)
            if own is not value:
                # A whole number is a number: 1 and 1.0 are one learning rate.
                object.__setattr__(self, field.name, own)
        for field in dataclasses.fields(self):
            self._check(field.name, getattr(self, field.name), field.metadata)

    def _check(self, name: str, value: Any, about: Mapping[str, Any]):
        if (choices := about["choices"]) and value is not None:
            own = "." in value
            _require(own or value in choices, name, value, " or ".join(choices))
        each = "each " if isinstance(value, tuple) else ""
        for x in value if isinstance(value, tuple) else (value,):
            if isinstance(x, str):
                # It becomes part of tables, figures and names of folders.
                _require(x.isprintable(), name, value, "printable, on one line")
            if not isinstance(x, int | float):
                continue
            _require(math.isfinite(x), name, value, "finite")
            bounds = [bound for bound in _BOUNDS if about[bound] is not None]
            if not all(_BOUNDS[bound](x, about[bound]) for bound in bounds):
                texts = [
                    f"{bound.replace('_', ' ')} {about[bound]}" for bound in bounds
                ]
                _require(False, name, value, each + " and ".join(texts))
        # A part of a configuration may lack what the whole has.
        whole = getattr(self, about["divides"] or "", None)
        if value and whole is not None and whole % value:
            of = about["divides"].replace("_", " ")
            _require(False, name, value, f"0 or a divisor of the {of}, {whole}")

    @classmethod
    def from_dict(cls: type[_Own], values: Mapping[str, Any]) -> _Own:
        """Make it of a mapping, as read from TOML or JSON.

        **Raises:**

        `UsageError` for a key that is not a field, with the nearest field, and for a
        value that it cannot have.
        """
        kinds = {field.name: field.type for field in dataclasses.fields(cls)}
        for key in values:
            if key not in kinds:
                raise unknown("configuration key", key, kinds)
        return cls(**{key: typed(key, kinds[key], x) for key, x in values.items()})

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready values, the inverse of `from_dict`."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
        }

    def differing(self, values: Mapping[str, Any]) -> list[str]:
        """What keeps `values` from being its fields, a text each."""
        there, here = values, self.to_dict()
        return [
            f"{name} = {there.get(name)!r} there, {here.get(name)!r} here"
            for name in {**here, **there}
            if name not in there or name not in here or there[name] != here[name]
        ]

    @classmethod
    def panel_of(cls, name: str) -> str:
        """The title of the class that adds a field, among those it is made of."""
        return next(
            base.panel
            for base in cls.__mro__
            if issubclass(base, Options) and name in inspect.get_annotations(base)
        )


_BOUNDS = {
    "above": operator.gt,
    "at_least": operator.ge,
    "below": operator.lt,
    "at_most": operator.le,
}
# The kinds of values, what they are called, and what stands for them in Python.
_KINDS = {
    int: ("a whole number", numbers.Integral),
    float: ("a number", numbers.Real),
    bool: ("true or false", bool),
    str: ("a text", str),
}


def without_none(kind: Any) -> Any:
    """The type of a field where it is given: `int` of `int | None`."""
    if get_origin(kind) in (Union, types.UnionType):
        (kind,) = (part for part in get_args(kind) if part is not type(None))
    return kind


def typed(name: str, kind: Any, value: Any) -> Any:
    """A value, as Python or a file has it, in the type of its field.

    **Arguments:**

    - `name`: of the field, for the error.
    - `kind`: `int`, `float`, `bool`, `str`, a tuple of them, a `Literal`, or one of
        these or `None`.
    - `value`: a list may stand for a tuple, and a whole number for a number.

    **Returns:**

    The value, of the type itself.

    **Raises:**

    `UsageError` naming the field, the value and what is allowed.
    """
    if type(value) is kind:
        return value
    inner = without_none(kind)
    if value is None and inner is not kind:
        return None
    if get_origin(inner) is Literal:
        allowed = get_args(inner)
        return _require(value in allowed, name, value, " or ".join(allowed))
    if get_origin(inner) is tuple:
        kinds = get_args(inner)
        values = list(value) if isinstance(value, list | tuple) else []
        if kinds[-1] is ...:
            kinds = kinds[:1] * len(values)
        _require(len(values) == len(kinds), name, value, f"{len(kinds)} numbers")
        return tuple(typed(name, k, x) for k, x in zip(kinds, values, strict=True))
    word, wanted = _KINDS[inner]
    # Python takes true for 1.
    fits = isinstance(value, wanted) and (inner is bool or not isinstance(value, bool))
    _require(fits, name, value, word)
    try:
        return inner(value)
    except OverflowError:
        return _require(False, name, value, "finite")


def _require(fits: bool, name: str, value: Any, allowed: str) -> Any:
    if not fits:
        raise UsageError(f"{name} = {value!r}: must be {allowed}")
    return value

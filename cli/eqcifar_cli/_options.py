"""Gives a command an option for each field of the dataclasses of options it takes.

    @with_options
    def probe(options: Probing, *, out: Out = Path("results")):

A parameter whose type is an `eqcifar.options.Options` becomes an option a field, with
the help, the bounds and the panel that stand there, and the command gets an object of
it. Where more than the fields makes what the command gets, such as a file, the type is

    configs: Annotated[list[Probing], Reader(Probing, read, many=True)]

and `read` is called with the fields that the command line gives, by name; its other
parameters become options too. As help is to be quick, the module of the class must not
import JAX.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from eqcifar.config import DATASETS
from eqcifar.fields import show_field
from eqcifar.options import Options, without_none


@dataclasses.dataclass(frozen=True)
class Reader:
    """How a command gets what the options of a class make.

    - `options`: the class.
    - `read`: called with the fields that the command line gives, and its own options.
    - `many`: whether each option is a text of several values, such as `0.1,0.2`.
    """

    options: type[Options]
    read: Callable[..., Any]
    many: bool = False


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command with options for the fields of its `Options` and `Reader`s."""
    parameters = {"context": _parameter("context", typer.Context)}
    readers: dict[str, tuple[Reader, list[str], list[str]]] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        reader = _reader(parameter.annotation)
        if reader is None:
            parameters[name] = parameter
            continue
        fields = {
            field.name: _option(reader, field)
            for field in dataclasses.fields(reader.options)
        }
        _, *own = inspect.signature(reader.read).parameters.values()
        parameters |= fields | {each.name: each for each in own}
        readers[name] = reader, list(fields), [each.name for each in own]

    def run(*, context: typer.Context, **values: Any):
        made = {}
        for name, (reader, fields, own) in readers.items():
            options = {field: values.pop(field) for field in fields}
            given = {
                field: value
                for field, value in options.items()
                if _is_given(context, field)
            }
            made[name] = reader.read(given, **{each: values.pop(each) for each in own})
        command(**made, **values)

    keyword = inspect.Parameter.KEYWORD_ONLY
    run.__signature__ = inspect.Signature(
        [each.replace(kind=keyword) for each in parameters.values()]
    )
    run.__doc__, run.__name__ = command.__doc__, command.__name__
    return run


def _reader(annotation: Any) -> Reader | None:
    if inspect.isclass(annotation) and issubclass(annotation, Options):
        return Reader(annotation, annotation.from_dict)
    about = getattr(annotation, "__metadata__", ())
    return next((each for each in about if isinstance(each, Reader)), None)


def _option(reader: Reader, field: dataclasses.Field) -> inspect.Parameter:
    about = field.metadata
    kind: Any = without_none(field.type)
    choices = get_args(kind) if get_origin(kind) is Literal else about["choices"]
    metavar, default, flag = about["metavar"], field.default, flag_of(field.name)
    # A file may have turned a switch on that the command line is to turn off.
    may_be_on = default is True or reader.read != reader.options.from_dict
    names = [f"{flag}/--no-{flag[2:]}" if kind is bool and may_be_on else flag]
    if reader.many:
        metavar = {bool: "true,false"}.get(kind, f"{metavar or 'VALUE'},...")
        names = ["--seeds", flag] if field.name == "seed" else [flag]
        kind, default = str, show_field(default)
    elif choices:
        metavar, kind = "|".join(choices), Literal[choices]
    elif get_origin(kind) is tuple and get_args(kind)[-1] is ...:
        kind = list[get_args(kind)[0]]
    option = typer.Option(
        *names,
        *([about["short"]] if about["short"] else []),
        help=about["help"],
        metavar=metavar,
        show_default=default not in (None, ()),
        rich_help_panel=reader.options.panel_of(field.name),
        autocompletion=None if reader.many else _COMPLETIONS.get(field.name),
    )
    kind = kind | None if default is None else kind
    return _parameter(field.name, Annotated[kind, option], default)


def _parameter(name: str, kind: Any, default: Any = inspect.Parameter.empty):
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, keyword, default=default, annotation=kind)


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def flag_of(name: str) -> str:
    """The option of a field: `--batch-size`."""
    return f"--{name.replace('_', '-')}"


def arguments(options: Options) -> list[str]:
    """The arguments of a command line that mean the same, without defaults."""
    words: list[str] = []
    for field in dataclasses.fields(options):
        value: Any = getattr(options, field.name)
        if value == field.default:
            continue
        if isinstance(value, bool):
            words.append(flag_of(field.name))
            continue
        for each in value if isinstance(value, tuple) else [value]:
            words += [flag_of(field.name), str(each)]
    return words


def _complete_arch(incomplete: str) -> list[str]:
    from eqcifar import models

    return [name for name in models.ARCHITECTURES if name.startswith(incomplete)]


def _complete_dataset(incomplete: str) -> list[str]:
    return [name for name in DATASETS if name.startswith(incomplete)]


_COMPLETIONS = {"arch": _complete_arch, "dataset": _complete_dataset}

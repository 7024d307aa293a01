"""What the manual takes from the program when it is built, and formulas as MathML."""

import html
import importlib
import inspect
import pathlib
import re
import typing
from collections.abc import Iterator
from typing import Any, Literal

import latex2mathml.converter
import typer.main

from eqcifar import config, measures, recipes
from eqcifar_cli import app


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in `<!-- name argument -->` by what the function of that name writes."""

    def fill(found: re.Match[str]) -> str:
        return "\n".join(_PARTS[found[1]](*found[2].split()))

    return re.sub(rf"<!-- ({'|'.join(_PARTS)})\b(.*?) -->", fill, markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Write formulas as MathML, for which a browser needs no program."""

    def convert(found: re.Match[str]) -> str:
        tex, display = html.unescape(found[2]), "block" if found[1] == "[" else "inline"
        return latex2mathml.converter.convert(tex, display=display)

    return re.sub(
        r'(?s)<(?:span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</(?:span|div)>',
        convert,
        content,
    )


def commands() -> Iterator[str]:
    """Every command with every option, as Typer has them."""
    yield from _command("eqcifar", typer.main.get_command(app))


def _command(name: str, command: Any) -> Iterator[str]:
    context = command.make_context(name, [], resilient_parsing=True)
    params = command.get_params(context)
    arguments = [param for param in params if param.param_type_name == "argument"]
    words = "".join(f" {_argument(param)}" for param in arguments)
    more = " COMMAND" if hasattr(command, "commands") else ""
    yield f"\n## `{name}`\n"
    yield f"```text\n{name} [OPTIONS]{words}{more}\n```\n"
    yield re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.cleandoc(command.help or "")) + "\n"
    panels: dict[str, list[str]] = {}
    for param in params:
        panel = getattr(param, "rich_help_panel", None) or "Options"
        panels.setdefault(panel, []).append(
            f"| {_names(param)}{_default(param)} | {_cell(param.help or '')} |"
        )
    for panel, rows in panels.items():
        yield f"\n**{panel}**\n"
        yield "| option | |\n|---|---|"
        yield from rows
    for part, inner in getattr(command, "commands", {}).items():
        yield from _command(f"{name} {part}", inner)


def _names(param: Any) -> str:
    if param.param_type_name == "argument":
        return f"`{_argument(param)}`"
    kind = "" if param.is_flag else f" {_kind(param)}"
    first, *others = [*param.opts, *param.secondary_opts]
    return "<br>".join([f"`{first}{kind}`", *(f"`{other}`" for other in others)])


def _kind(param: Any) -> str:
    kind = param.type_descriptor.annotation
    choices = typing.get_args(kind) if typing.get_origin(kind) is Literal else ()
    names = {str: "TEXT", int: "INTEGER", float: "NUMBER", pathlib.Path: "PATH"}
    text = param.metavar or "|".join(choices) or names.get(kind) or param.name.upper()
    return _cell(text)


def _argument(param: Any) -> str:
    return param.metavar or param.name.upper()


def _default(param: Any) -> str:
    value = param.default
    if callable(value) or value is False or value in (None, (), [], ""):
        return ""
    if value is True:
        return "<br>default: on"
    text = " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
    return f"<br>default: `{_cell(text)}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def numbers() -> Iterator[str]:
    """Every number of sharpness with its unit and meaning."""
    yield "| column | unit | meaning |\n|---|---|---|"
    for name in measures.COLUMNS:
        text = _cell(measures.meaning(name, "").replace(" ()", ""))
        yield f"| `{name}` | {measures.unit(name, 'loss')} | {text} |"


def recipe_table() -> Iterator[str]:
    """What each recipe sets, where one differs from another."""
    made = {
        name: config.TrainConfig.from_dict(recipes.recipe_options(name))
        for name in recipes.RECIPES
    }
    fields = [key for key in made["default"].to_dict()]
    yield "| option | " + " | ".join(f"`{name}`" for name in made) + " |"
    yield "|---" * (len(made) + 1) + "|"
    for field in fields:
        values = [each.to_dict()[field] for each in made.values()]
        if any(value != values[0] for value in values):
            shown = [
                str(value).lower() if isinstance(value, bool) else f"{value}"
                for value in values
            ]
            option = field.replace("_", "-")
            yield f"| `--{option}` | " + " | ".join(shown) + " |"


def api(room: str) -> Iterator[str]:
    """A stub for each public function and class of a room."""
    module = importlib.import_module(room)
    for name, value in vars(module).items():
        home = getattr(value, "__module__", "") or ""
        named = inspect.isclass(value) or inspect.isroutine(inspect.unwrap(value))
        if named and not name.startswith("_") and home.startswith(room):
            yield f"\n::: {room}.{name}\n"


_PARTS = {part.__name__: part for part in (commands, numbers, recipe_table, api)}

import io
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

# What a terminal takes for a command, or shows in another order than it is written.
_COMMANDS = [*range(0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0), 0x2028, 0x2029]
_COMMANDS += [0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_VISIBLE = {code: ascii(chr(code))[1:-1] for code in _COMMANDS}


def printable(text: str) -> str:
    """The text with commands to a terminal written out, as in a name of a class."""
    return text.translate(_VISIBLE)


class Guarded(io.TextIOBase):
    """A stream that writes what is `printable`.

    Rich finds the stream behind it, for commands of its own.
    """

    def __init__(self, stream: Any):
        """Take the stream to write to."""
        self.rich_proxied_file = stream

    def write(self, text: str, /) -> int:
        """Write the text, as it is printable."""
        return self.rich_proxied_file.write(printable(text))

    def flush(self):
        """Flush the stream behind."""
        self.rich_proxied_file.flush()

    def isatty(self) -> bool:
        """Whether the stream behind is a terminal."""
        return self.rich_proxied_file.isatty()

    def fileno(self) -> int:
        """That of the stream behind."""
        return self.rich_proxied_file.fileno()

    @property
    def encoding(self) -> str:  # pyright: ignore
        """That of the stream behind."""
        return self.rich_proxied_file.encoding


class _Console(Console):
    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)


def console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """The console on stdout as it is now; plain text where it is no terminal."""
    stream = sys.stderr if stderr else sys.stdout
    # Named, for a `Live` puts a stream of its own before the guarded one.
    file = getattr(stream, "rich_proxied_file", stream)
    return _Console(file=file, highlight=False, markup=False, emoji=False, quiet=quiet)


def folder(width: int, indent: str, first: str | None = None) -> textwrap.TextWrapper:
    """What folds lines between words; a path, which has no blanks, stays whole."""
    return textwrap.TextWrapper(
        width,
        initial_indent=indent if first is None else first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def fold(text: str, screen: Console, indent: str = "") -> str:
    """The text with lines broken between words, to fit into a terminal.

    Lines after the first of what was one begin with `indent`.
    """
    if not screen.is_terminal:
        return text
    wrapper = folder(max(screen.width, 20), indent, "")
    return "\n".join(wrapper.fill(line) for line in text.split("\n"))


def say(text: str, screen: Console | None = None, *, indent: str = ""):
    """Print prose, folded to the width of a terminal; on stdout by default."""
    screen = console() if screen is None else screen
    screen.print(fold(text, screen, indent), soft_wrap=True)


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    left: Sequence[str] = (),
):
    """Print a title, then columns of text.

    All but the first are aligned on the right, and those that `left` names.
    """
    table = Table(box=box.SIMPLE)
    for index, name in enumerate(columns):
        justify = "right" if index and name not in left else "left"
        table.add_column(name, justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*(cell.replace("\n", "\\n") for cell in row))
    screen = console()
    if not screen.is_terminal:
        # Nothing to fit into: what reads the lines wants whole cells.
        screen.width = 10_000
    screen.print(fold(title, screen), table, sep="\n", soft_wrap=True)


def print_warning(message: str):
    """Print a warning on stderr."""
    say(f"Warning: {message}", console(stderr=True))


def print_json(values: Any):
    """Print JSON at full precision; what is not a finite number becomes null."""
    from eqcifar.results import to_json

    typer.echo(to_json(values))


def format_bytes(count: int) -> str:
    """A number of bytes with its unit, in powers of 1024."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"

from collections.abc import Sequence
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table


def console(*, quiet: bool = False) -> Console:
    """The console on stdout as it is now; plain text where it is no terminal."""
    return Console(highlight=False, markup=False, emoji=False, quiet=quiet)


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
        table.add_row(*row)
    screen = console()
    if not screen.is_terminal:
        # Nothing to fit into: what reads the lines wants whole cells.
        screen.width = 10_000
    screen.print(title, table, sep="\n", soft_wrap=True)


def print_warning(message: str):
    """Print a warning on stderr."""
    typer.echo(f"Warning: {message}", err=True)


def print_json(values: Any):
    """Print JSON at full precision; what is not a finite number becomes null."""
    from eqcifar.runs import to_json

    typer.echo(to_json(values))


def format_bytes(count: int) -> str:
    """A number of bytes with its unit, in powers of 1024."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"

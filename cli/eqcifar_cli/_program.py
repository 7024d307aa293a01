import contextlib
import errno
import os
import re
import shutil
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from eqcifar.errors import EqcifarError, UsageError, is_out_of_memory

from ._output import Guarded, console, folder, say


class Program(TyperGroup):
    """The one place where failures become a line on stderr and an exit code.

    In a narrow terminal, help has each option above its text, in place of a table.
    """

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a name; the arguments are Typer's."""
        command = super().get_command(ctx, cmd_name)
        return command if command is None else _fitted(command)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line and exit; the arguments are Typer's."""
        _fitted(self)
        # A name of a class or a file can hold what the output's encoding does not, and
        # what a terminal would obey.
        sys.stdout.reconfigure(errors="replace")  # pyright: ignore
        with (
            contextlib.redirect_stdout(Guarded(sys.stdout)),
            contextlib.redirect_stderr(Guarded(sys.stderr)),
        ):
            self._main(*args, **kwargs)

    def _main(self, *args: Any, **kwargs: Any):
        debug = os.environ.get("EQCIFAR_DEBUG", "") not in ("", "0")
        try:
            code = super().main(*args, **{**kwargs, "standalone_mode": False})
        except typer.TyperException as error:
            code = error.exit_code
            _print_usage_error(error)
        except (EqcifarError, OSError, MemoryError, RuntimeError) as error:
            message = describe(error)
            if debug or message is None:
                raise
            code = 2 if isinstance(error, UsageError) else 1
            _print_error(message)
        sys.exit(code or 0)


class _Narrow(typer.Context.formatter_class):
    def __init__(self, *_: Any, **__: Any):
        super().__init__(width=max(_columns(), _NARROWEST))

    def write_text(self, text: str):
        paragraphs = text.split("\n\n")
        self.write(
            "\n".join(self._fold(each, self.current_indent) for each in paragraphs)
        )

    def write_dl(self, rows: Any, *_: Any, **__: Any):
        for name, text in rows:
            self.write(self._fold(name, self.current_indent))
            self.write(self._fold(text, self.current_indent + 4))

    def _fold(self, text: str, indent: int) -> str:
        # As `say` folds: what has no blanks stays whole.
        return folder(self.width, " " * indent).fill(" ".join(text.split())) + "\n"


class _NarrowContext(typer.Context):
    formatter_class = _Narrow


# Where the table of options no longer has room for words, and for no line at all.
_ROOMY, _NARROWEST = 80, 20


def _columns() -> int:
    return shutil.get_terminal_size().columns


def _fitted(command: Any) -> Any:
    if _columns() < _ROOMY:
        command.rich_markup_mode, command.context_class = None, _NarrowContext
        # Or it is cut to fit beside the name.
        command.short_help = (command.help or "").partition("\n\n")[0]
    return command


# For what the libraries below say of a value's type, range and number.
_WORDS = {
    r"Input should be a valid number,.*": "must be a number",
    r"Input should be a valid integer,.*": "must be a whole number",
    r"Input should be a valid boolean,.*": "must be true or false",
    r"Input should be greater than or equal to (\S+)": r"must be \1 or more",
    r"Input should be less than or equal to (\S+)": r"must be \1 or less",
    r"Value error, ": "",
    r"Option '(\S+)' requires an argument\.": r"\1 needs a value",
    r"Option '(\S+)' requires 3 arguments\.": r"\1 needs three numbers, for red, green "
    r"and blue: \1 0.5 0.5 0.5",
    r"Option '(\S+)' does not take a value\.": r"\1 takes no value: give it alone",
}


def _print_usage_error(error: typer.TyperException):
    message = " ".join(error.format_message().split())
    for pattern, ours in _WORDS.items():
        message = re.sub(pattern, ours, message)
    context = getattr(error, "ctx", None)
    if context is not None:
        message += f" (see `{context.command_path} --help`)"
    # Without any arguments the help has been printed already.
    if type(error).__name__ != "NoArgsIsHelpError":
        _print_error(message)


def _print_error(message: str):
    say(f"Error: {message}", console(stderr=True))


def describe(error: BaseException) -> str | None:
    """One line on what failed and what to do; `None` if only a traceback tells."""
    if isinstance(error, EqcifarError):
        return " ".join(str(error).split())
    if isinstance(error, OSError):
        return _describe_os_error(error)
    if is_out_of_memory(error):
        return "out of memory: lower --batch-size or --width, or use more devices"
    return None


def _describe_os_error(error: OSError) -> str:
    remedies = {
        errno.ENOSPC: "free some space and run the same command again",
        errno.EDQUOT: "free some of your quota and run the same command again",
        errno.EACCES: "choose another folder, or mend its permissions",
        errno.EROFS: "choose another folder",
    }
    reason = error.strerror or str(error) or type(error).__name__
    where = f": {error.filename}" if error.filename else ""
    remedy = remedies.get(error.errno or 0)
    return f"{reason}{where}" + (f"; {remedy}" if remedy else "")

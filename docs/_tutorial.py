"""Run the tutorial: every command and program of the page, in order.

    python docs/_tutorial.py            # say where the output is not the page's
    python docs/_tutorial.py --write    # write outputs and pictures into the page

Numbers may differ from machine to machine; words and the form of tables may not. A line
`...` on the page stands for any lines.
"""

import contextlib
import io
import os
import re
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

from typer.testing import CliRunner

from eqcifar_cli import app

PAGE = Path(__file__).parent / "learn" / "tutorial.md"
STEP = re.compile(
    r"^```(sh|python)\n(.*?)^```\n(?:\n^```text\n(.*?)^```\n)?", re.M | re.S
)
PICTURE = re.compile(r"<!-- picture (\S+) -->\n!\[.*?\]\((.*?)\)", re.S)


def run(kind: str, code: str, names: dict) -> str:
    """What a command line or a program prints."""
    if kind == "python":
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, str(PAGE), "exec"), names)
        return printed.getvalue()
    program, *words = shlex.split(code, comments=True)
    assert program == "eqcifar", program
    result = CliRunner().invoke(app, words, env={"COLUMNS": "88"})
    if result.exit_code:
        raise SystemExit(f"{code}{result.output}")
    return result.stdout if "--json" not in words else ""


def masked(text: str) -> list[str]:
    """The lines of a text without its digits and the room that they take."""
    text = re.sub(r"-[0-9a-f]{8}\b|[-+]?\d[\d,.]*(e[-+]?\d+)?", "#", text)
    return [" ".join(line.replace("─", "").split()) for line in text.splitlines()]


def fits(page: str, printed: str) -> bool:
    """Whether a text is one that the page shows."""
    parts = [re.escape(line) for line in masked(page)]
    pattern = "\n".join(".*?" if part == re.escape("...") else part for part in parts)
    return bool(re.fullmatch(pattern, "\n".join(masked(printed)), re.S))


def main(write: bool) -> int:
    """Run all of it in an empty folder; the number of outputs that do not fit."""
    text, names, wrong = PAGE.read_text(encoding="utf-8"), {"__name__": "tutorial"}, 0
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        new = text
        for found in STEP.finditer(text):
            kind, code, shown = found.groups()
            printed = run(kind, code, names)
            if write:
                print(code, printed, sep="\n", flush=True)
            if shown is not None and not fits(shown, printed):
                wrong += 1
                print(f"{code}\nprints\n\n{printed}\nand the page has\n\n{shown}")
                if write:
                    step = found[0][: found.start(3) - found.start()]
                    new = new.replace(found[0], f"{step}{printed.rstrip()}\n```\n")
        for pattern, name in PICTURE.findall(text):
            (made,) = Path().glob(pattern)
            if write:
                shutil.copy(made, PAGE.parent / name)
    if write:
        PAGE.write_text(new, encoding="utf-8")
    return 0 if write else wrong


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("MPLBACKEND", "agg")
    sys.exit(main("--write" in sys.argv))

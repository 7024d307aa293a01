"""Names that are commands to whoever shows them, through everything that shows them."""

import csv
import html.parser
import io
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import yaml
from typer.testing import CliRunner

from eqcifar import exchange, models, runs
from eqcifar.config import TrainConfig
from eqcifar.data import Dataset, Split, check
from eqcifar.training import initialise
from eqcifar_cli import app

from ._texts import write_run
from ._try import Fault, trying

NAMES = {
    "HTML": "<img src=x onerror=alert(1)></td></table><script>alert(1)</script>\"'&",
    "LaTeX": r"\input{/etc/passwd}$\write18{x}$%&#_{}~^\end{table}",
    "formula": '=HYPERLINK("http://x","y")',
    "formulas": "@SUM(1+1)*cmd|' /C calc'!A0",
    "minus": "-2+3+cmd|' /C calc'!A0",
    "terminal": "a\x1b[2J\x1b]0;title\x07\x9b31m\x1b[1A\rb",
    "lines": "a\nb\r\n| c | d |\n\nSYNTHETIC\t9\x0b\x0c\x85\u2028e",
    "direction": "abc\u202etxt.exe\u2066\u200f",
    "Markdown": "](javascript:alert(1)) **x** `y` | z | <!-- \n---\n# T\n```",
    "template": "{{7*7}}{% for x in y %}{0.__class__}%(x)s{arch}",
    "empty": " ",
    "long": "x" * 5_000,
    "surrogate": "a\ud800b\0c",
    "marks": "e" + "\u0301" * 50,
}
# Nothing in what a terminal gets, bytes of Rich's own tables aside.
_COMMANDS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)


class _Page(html.parser.HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.strange: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any):
        if tag in ("script", "iframe", "object", "base", "link"):
            self.strange.append(tag)
        for name, value in attrs:
            address = name in ("src", "href", "xlink:href", "action", "data")
            inner = str(value).startswith(("#", "data:image/svg+xml;base64,"))
            if name.startswith("on") or (address and not inner):
                self.strange.append(f"{tag} {name}={value}")


def _is_csv(delimiter: str, count: int) -> Callable[[str], str]:
    def problem(text: str) -> str:
        rows = [*csv.reader(io.StringIO(text), delimiter=delimiter)]
        if len(rows) != count + 1 or len({len(row) for row in rows}) != 1:
            return f"{len(rows)} rows of { ({len(row) for row in rows}) } cells"
        cells = [cell for row in rows for cell in row]
        numbers = re.compile(r"-?(\d|nan|inf)")
        bad = [c for c in cells if re.match(r"[=+@\t\r-]", c) and not numbers.match(c)]
        return f"a formula {bad[0]!r:.60}" if bad else ""

    return problem


def _is_latex(text: str) -> str:
    known = "begin|end|centering|caption|toprule|midrule|bottomrule|pm|textbackslash"
    commands = set(re.findall(r"\\([A-Za-z]+)", text))
    strange = commands - {*known.split("|"), "textasciitilde", "textasciicircum"}
    return f"commands {sorted(strange)}" if strange else ""


def _is_json(text: str) -> str:
    json.loads(text)
    return ""


def _is_markdown(count: int) -> Callable[[str], str]:
    def problem(text: str) -> str:
        rows = [line for line in text.splitlines() if line.startswith("|")]
        pipes = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
        if len(rows) != count + 2 or len(pipes) != 1:
            return f"{len(rows)} rows with {pipes} bars"
        return "a tag" if re.search(r"(?<!\\)<(?=[A-Za-z!/])", text) else ""

    return problem


def _page_is(page: Path, text: str) -> str:
    return ", ".join(_Page(page.read_text(encoding="utf-8")).strange[:3])


def _is_plain(text: str) -> str:
    found = _COMMANDS.search(text)
    return f"a command to a terminal, {found[0]!r}" if found else ""


def tables(folder: Path) -> Fault:
    """Data sets and notes of these names, in all tables, plots and reports."""
    checks: dict[str, Callable[[str], str]] = {
        "table": lambda text: "",
        "markdown": _is_markdown(2),
        "latex": _is_latex,
        "tsv": _is_csv("\t", 2),
        "csv": _is_csv(",", 2),
        "json": _is_json,
    }
    every = folder / "every" / "results"
    with trying("names that are commands: tabulate, plot, report, rank") as fault:
        for kind, name in NAMES.items():
            root = folder / kind / "results"
            for lr in (0.1, 0.2):
                config = TrainConfig(arch="mine.Net", epochs=2, lr=lr)
                write_run(root, config, f"/{name}", note=name)
            write_run(every, config, f"/{name}", note=name)
            for form, check in checks.items():
                words = ["tabulate", str(root), "--format", form]
                _run(fault, words, check, f"{kind}, {form}")
        page, plots = every.with_name("report.html"), every.with_name("plots")
        words = ["report", str(every), "-o", str(page), "--title", NAMES["HTML"]]
        _run(fault, words, partial(_page_is, page), "report")
        words = ["plot", str(every), "-o", str(plots), "--format", "svg"]
        _run(fault, words, lambda text: "", "plot")
        _run(fault, ["rank", str(every)], lambda text: "", "rank")
    return fault


def _run(fault: Fault, words: list[str], check: Callable[[str], str], what: str):
    def call() -> str:
        result = CliRunner().invoke(app, words, env={"COLUMNS": "100"})
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        if result.exit_code:
            fault.refused += 1
            fault.line = result.stderr.strip()
            lines = result.stderr.strip().splitlines()
            refused = [line for line in lines if line.startswith("Error: ")]
            return "" if len(refused) == 1 else f"{len(lines)} lines: {result.stderr}"
        problem = check(result.stdout) or _is_plain(result.stdout + result.stderr)
        if problem:
            fault.problems.append(f"{what}: {problem}")
        return problem

    fault.read(call, is_right=lambda problem: not problem, what=what)


def exports(folder: Path) -> Fault:
    """Classes and notes of these names, in a network's file, card and messages."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, 32, 32, 3), np.uint8)
    split = Split(images, rng.integers(0, 3, 8, np.int32))
    network = models.create("resnet8", 3, width=0.25, key=jax.random.key(0))
    with trying("names that are commands: export, predict") as fault:
        for kind, name in NAMES.items():
            path = folder / f"{kind}.safetensors"
            config = TrainConfig(arch="resnet8", width=0.25, batch_size=16)
            dataset = Dataset(f"/{name}", ("a", name, "c"), split, split, None, False)
            state = initialise(*network, config, 64)
            about = {"note": name}

            def export() -> str:
                check(dataset)  # noqa: B023
                runs.save_model(path, state, config, dataset, about=about)  # noqa: B023
                made = exchange.export_model(path, folder / f"{kind}-export")  # noqa: B023
                return (made.parent / "README.md").read_text()

            fault.read(export, is_right=lambda text: not _is_card(text), what=kind)
            words = ["predict", str(path), str(folder / "x.png")]
            if path.exists():
                _run(fault, words, lambda text: "", f"{kind}, predict")
    return fault


def _is_card(text: str) -> str:
    _, metadata, body = re.split(r"^---$", text, maxsplit=2, flags=re.M)
    if "library_name" not in yaml.safe_load(metadata):
        return "other metadata"
    if re.search(r"(?<!\\)<(?=[A-Za-z!/])", re.sub(r"`[^`\n]*`", "", body)):
        return "a tag"
    wanted = re.findall(r"^#+ .*$", body, re.M)
    return f"headings {wanted}" if len(wanted) != 4 else ""

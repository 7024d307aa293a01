import re
import shlex
from pathlib import Path

import pytest

from .cli_tools import run_cli

_ROOT = Path(__file__).parent.parent
_README = (_ROOT / "README.md").read_text(encoding="utf-8")


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_the_example_runs_and_is_short(capsys):
    (code,) = blocks(_README, "python")
    assert len([line for line in code.splitlines() if line.strip()]) < 25
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    printed = re.fullmatch(
        r"test accuracy (0\.\d\d) on SYNTHETIC images\n", capsys.readouterr().out
    )
    assert printed
    assert float(printed[1]) > 0.2


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/training.md",
        "docs/data.md",
        "docs/sharing.md",
        "docs/results.md",
    ],
)
def test_commands_on_the_page_exist(page):
    shell = "".join(blocks((_ROOT / page).read_text(encoding="utf-8"), "sh"))
    commands = re.findall(r"^(?:srun .*)?eqcifar (.*)$", shell, re.MULTILINE)
    assert commands
    for command in commands:
        # The help is eager, but options before it that do not exist are refused.
        words = shlex.split(command, comments=True)
        result = run_cli(*words, "--help")
        assert result.exit_code == 0, (command, result.stderr)
        unknown = {word for word in words if word.startswith("--")}
        unknown -= set(re.findall(r"--[a-z0-9-]+", result.stdout))
        assert not unknown, command


def test_links_lead_somewhere():
    for page in (
        "README.md",
        *(f"docs/{name.name}" for name in (_ROOT / "docs").glob("*.md")),
    ):
        text = (_ROOT / page).read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!http)([^)#]+)", text):
            assert (_ROOT / page).parent.joinpath(target).exists(), (page, target)

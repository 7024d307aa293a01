import re
import shlex
from pathlib import Path

import jax
import pytest

from eqcifar import data, sharpness
from eqcifar.config import TrainConfig

from .cli_tools import run_cli
from .helpers import small_net

_ROOT = Path(__file__).parent.parent
_README = (_ROOT / "README.md").read_text(encoding="utf-8")


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def accuracy_of_the_example(capsys, **smaller):
    (code,) = blocks(_README, "python")
    for name, value in smaller.items():
        code, count = re.subn(rf"\b{name}=\d+", f"{name}={value}", code)
        assert count == 1
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    printed = re.fullmatch(
        r"test accuracy (0\.\d\d) on SYNTHETIC images\n", capsys.readouterr().out
    )
    assert printed
    return float(printed[1])


def test_the_example_runs(capsys):
    assert 0 <= accuracy_of_the_example(capsys, limit_train=40, epochs=1) <= 1


@pytest.mark.slow
def test_the_example_learns(capsys):
    # One of ten classes is guessed at 0.1, and its spread is 0.003.
    assert accuracy_of_the_example(capsys) > 0.2


def test_sharpness_of_ones_own(capsys):
    page = (_ROOT / "docs" / "custom.md").read_text(encoding="utf-8")
    (code,) = (block for block in blocks(page, "python") if "sharpness." in block)
    model, state = small_net(classes=10)
    images = data.load("synthetic", limit_train=10, limit_test=100)
    given = {"model": model, "state": state, "images": images, "config": TrainConfig()}
    exec(
        compile(code, "custom.md", "exec"),
        {"jax": jax, "data": data, "sharpness": sharpness, **given},
    )
    printed = re.fullmatch(
        r"exact ([\d.]+) \(.*\)\n([\d.]+) ([\d.e-]+)\n", capsys.readouterr().out
    )
    assert printed
    trace, largest, _ = map(float, printed.groups())
    # The loss is 2 mse about other targets, which the trace does not see.
    network = sharpness.Network(model, state)
    mean, std = given["config"].mean, given["config"].std
    examples = sharpness.Examples(
        images.test.images, images.test.labels, lambda x: data.normalise(x, mean, std)
    )
    exact = sharpness.output_traces(network, examples, "mse").estimate().value
    assert trace == pytest.approx(2 * exact, rel=1e-4)
    assert 0 < largest < trace


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

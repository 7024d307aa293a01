import importlib.util
import os
import re
import shlex
import subprocess
import sys
import types
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest

from eqcifar import data, measures, sharpness, storage
from eqcifar.config import TrainConfig

from . import reference
from .cli_tools import run_cli
from .helpers import small_net
from .make_torch_fixture import FIXTURE

_ROOT = Path(__file__).parent.parent
_PAGES = [
    "README.md",
    *(str(page.relative_to(_ROOT)) for page in sorted((_ROOT / "docs").rglob("*.md"))),
]
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
    page = (_ROOT / "docs" / "howto" / "own.md").read_text(encoding="utf-8")
    (code,) = (
        block for block in blocks(page, "python") if "sharpness.Network" in block
    )
    model, state = small_net(classes=10)
    images = data.load("synthetic", limit_train=10, limit_test=100)
    given = {"model": model, "state": state, "images": images, "config": TrainConfig()}
    exec(
        compile(code, "own.md", "exec"),
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


def test_weights_of_pytorch(x64, monkeypatch):
    """The recipe, on a file as PyTorch orders it, gives the logits PyTorch found."""
    weights, statistics, images, _ = reference.make_inputs("basic")
    *layers, matrix, bias = weights
    means_and_variances, stored = iter(statistics), []
    for weight in layers:
        stored.append(("weight" if weight.ndim > 1 else "norm", weight))
        if weight.ndim == 1 and stored[-2][1].ndim == 1:
            # The bias of a BatchNorm: its statistics and their count are next.
            stored += [
                ("running_mean", next(means_and_variances)),
                ("running_var", next(means_and_variances)),
                ("num_batches_tracked", np.array(7)),
            ]
    stored += [("weight", matrix), ("bias", bias)]
    assert next(means_and_variances, None) is None
    file = {
        f"{index}.{name}": types.SimpleNamespace(numpy=lambda value=value: value)
        for index, (name, value) in enumerate(stored)
    }
    torch = types.SimpleNamespace(load=lambda *_, **__: file)
    monkeypatch.setitem(sys.modules, "torch", torch)
    page = (_ROOT / "docs" / "howto" / "pytorch.md").read_text(encoding="utf-8")
    (code,) = blocks(page, "python")
    given = {"make": reference.CASES["basic"][0]}
    code, count = re.subn(r'models\.create\("resnet18", ', "make(", code)
    assert count == 1
    exec(compile(code, "pytorch.md", "exec"), given)
    model = eqx.nn.inference_mode(given["model"])
    logits = jax.jit(jax.vmap(lambda image: model(image, given["state"])[0]))(images)
    with np.load(FIXTURE) as expected:
        np.testing.assert_allclose(
            logits, expected["basic/inference_logits"], rtol=1e-9, atol=1e-9
        )


@pytest.mark.parametrize("page", _PAGES)
def test_commands_on_the_page_exist(page):
    shell = "".join(blocks((_ROOT / page).read_text(encoding="utf-8"), "sh"))
    shell = shell.replace("\\\n", " ")
    commands = re.findall(r"^(?:srun .*)?eqcifar (.*)$", shell, re.MULTILINE)
    for command in commands:
        # The help is eager, but options before it that do not exist are refused.
        words = shlex.split(command, comments=True)
        result = run_cli(*words, "--help")
        assert result.exit_code == 0, (command, result.stderr)
        unknown = {word for word in words if word.startswith("--")}
        unknown -= set(re.findall(r"--[a-z0-9-]+", result.stdout))
        assert not unknown, command


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(page):
    # Those of the manual are checked where it is built, by `make docs`.
    text = (_ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (_ROOT / target).exists(), (page, target)


def test_readme_is_short():
    assert len(_README.splitlines()) < 200


def test_every_column_and_measure_is_in_the_manual():
    reference = _ROOT / "docs" / "reference"
    files = (reference / "files.md").read_text(encoding="utf-8")
    for column in (*storage.COLUMNS, *storage.ABOUT):
        assert f"`{column}`" in files, column
    page = (reference / "measures.md").read_text(encoding="utf-8")
    for measure in measures.MEASURES:
        assert f"`{measure}`" in page, measure


def test_the_tutorial_prints_what_it_shows():
    environment = {
        name: value for name, value in os.environ.items() if name != "XLA_FLAGS"
    }
    done = subprocess.run(
        [sys.executable, _ROOT / "docs" / "_tutorial.py"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_tutorial_tells_words_and_tables_from_digits():
    spec = importlib.util.spec_from_file_location(
        "tutorial", _ROOT / "docs" / "_tutorial.py"
    )
    assert spec
    assert spec.loader
    tutorial = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tutorial)
    page = "seed 1 of run-0123abcd\n...\n  tr_hess   374   45\n"
    assert tutorial.fits(page, "seed 2 of run-ffffffff\nmore\n tr_hess 5.1e-03 1\n")
    assert (
        tutorial.fits(page, "seed 1 of run-0123abcd\n  tr_hess   374   45\n") is False
    )
    assert not tutorial.fits(page, page.replace("tr_hess", "tr_ggn"))

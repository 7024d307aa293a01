import json

import pytest

from eqcifar import data, runs, training
from eqcifar.config import TrainConfig
from eqcifar.errors import UsageError
from eqcifar.fields import train_arguments
from eqcifar.recipes import RECIPES, recipe_options
from eqcifar_cli._configs import Config, Configs

from .cli_tools import TINY, parse_options as parse, run_cli


def test_no_recipe_is_the_default_recipe():
    assert TrainConfig.from_dict(recipe_options("default")) == TrainConfig()
    assert parse(Config)[0] == TrainConfig()


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_a_configuration_that_its_own_command_names(name):
    config = TrainConfig.from_dict(recipe_options(name))
    assert parse(Config, "--recipe", name)[0] == config
    assert parse(Config, *train_arguments(config))[0] == config


def test_options_win_over_a_file_over_a_recipe(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("epochs = 3\nlabel_smoothing = 0.0\n")
    given = "--recipe", "fast", "--label-smoothing", "0.2", "--no-whiten"
    config, _ = parse(Config, "--config", file, *given)
    own = {"epochs": 3, "label_smoothing": 0.2, "whiten": False}
    assert config == TrainConfig.from_dict({**recipe_options("fast"), **own})


def test_a_sweep_varies_what_a_recipe_leaves_open(tmp_path):
    file = tmp_path / "sweep.toml"
    file.write_text("epochs = 3\n[[list]]\narch = 'vgg11'\n[[list]]\nloss = 'mse'\n")
    found, _ = parse(Configs, "--recipe", "fast", "-f", file, "--ema", "0,0.9")
    base = {**recipe_options("fast"), "epochs": 3}
    assert found == [
        TrainConfig.from_dict({**base, "ema": ema, **own})
        for ema in (0.0, 0.9)
        for own in ({"arch": "vgg11"}, {"loss": "mse"})
    ]


def test_an_unknown_recipe_is_refused():
    _, result = parse(Config, "--recipe", "quick")
    assert result.exit_code == 2
    message = "unknown recipe 'quick'; there are default, original, airbench94"
    assert message in result.stderr
    with pytest.raises(UsageError, match="unknown recipe"):
        recipe_options("quick")


@pytest.mark.slow
def test_the_fast_recipe_in_pieces_trains_and_eval_agrees_with_the_log(tmp_path):
    small = "--recipe", "fast", "--arch", "airbench94", "--width", 1 / 16, "--epochs", 1
    pieces = "--bn-group", 10, "--grad-accum", 2, "--remat"
    result = run_cli(*TINY, *small, *pieces, "--out", tmp_path)
    assert result.exit_code == 0, result.stderr
    (path,) = tmp_path.glob("*/*/seed0")
    fields = json.loads((path / "config.json").read_text())["config"]
    assert fields["test_flip"]
    assert fields["test_crop"]
    assert fields["ema"] > 0
    assert "recipe" not in fields
    flags = json.loads((path / "env.json").read_text())["flags"]
    assert (flags["grad_accum"], flags["remat"]) == (2, True)
    header, row = (path / "log.tsv").read_text().splitlines()
    logged = dict(zip(header.split("\t"), map(float, row.split("\t")), strict=True))
    for split in ("test", "train"):
        result = run_cli("eval", path, "--split", split, "--json")
        found, name = json.loads(result.stdout), split[:2]
        accuracy, loss = (logged[f"{value}_{name}"] for value in ("acc", "loss"))
        assert found["accuracy"]["value"] == pytest.approx(accuracy, rel=1e-12)
        assert found["loss"]["value"] == pytest.approx(loss, rel=1e-6)
        assert (found["loss_name"], found["label_smoothing"]) == ("ce", 0.2)
    # Six views of a test image, one of a training image.
    loaded = runs.load_model(path)
    plain = loaded.config.one_view()
    images = data.load("synthetic", limit_train=40, limit_test=20)
    for split, views in (("train", False), ("test", True)):
        part = images.splits[split]
        logits = training.predict(loaded.model, loaded.state, part.images, plain)
        loss = training.evaluate(
            logits, part.labels, "ce", label_smoothing=0.2
        ).loss.value
        same = loss == pytest.approx(logged[f"loss_{split[:2]}"], rel=1e-6)
        assert same != views

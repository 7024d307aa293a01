import json
from functools import partial

import pytest

from eqcifar.config import TrainConfig
from eqcifar_cli._configs import Config

from .cli_tools import parse_options

parse = partial(parse_options, Config)


def test_defaults_are_those_of_the_config():
    assert parse()[0] == TrainConfig()


def test_every_field_is_an_option():
    config, _ = parse(
        *("-a", "vgg", "-d", "synthetic", "-b", 30, "--no-augment", "--loss", "ce"),
        *("--mean", 0.1, 0.2, 0.3, "--std", 1, 2, 3, "--bn-group", 15, "--lr", 1),
        *("--precision", "bf16", "--seed", 7, "--width", 2),
    )
    assert config == TrainConfig(
        arch="vgg",
        dataset="synthetic",
        batch_size=30,
        augment=False,
        mean=(0.1, 0.2, 0.3),
        std=(1.0, 2.0, 3.0),
        loss="ce",
        bn_group=15,
        precision="bf16",
        seed=7,
        lr=1.0,
        width=2.0,
    )


def test_options_win_over_file_over_defaults(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("epochs = 3\nlr = 1\nmean = [0.0, 0.1, 0.2]\naugment = false\n")
    config, _ = parse("--config", file, "--lr", "0.8", "--augment")
    # Given on the command line, a value wins even where it is the default.
    assert config == TrainConfig(epochs=3, lr=0.8, mean=(0.0, 0.1, 0.2), augment=True)


def test_the_config_of_a_run_is_a_config_file(tmp_path):
    file = tmp_path / "config.json"
    config = TrainConfig(arch="vgg", epochs=2)
    file.write_text(json.dumps({"format": 1, "config": config.to_dict()}))
    assert parse("--config", file)[0] == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epohcs = 3", "unknown configuration key 'epohcs'; did you mean 'epochs'?"),
        ("batch-size = 3", "did you mean 'batch_size'?"),
        ('lr = "0.1"', "lr = '0.1': must be a number"),
        ("epochs = 2.5", "epochs = 2.5: must be a whole number"),
        ("mean = 0.5", "mean = 0.5: must be 3 numbers"),
        ("lr = nan", "lr = nan: must be finite"),
        ("lr = -1.0", "lr = -1.0: must be above 0"),
        ("epochs 3", "is not valid TOML"),
        ("[model]\narch = 'vgg'", "unknown configuration key 'model'"),
    ],
)
def test_bad_files_are_refused(tmp_path, text, message):
    file = tmp_path / "run.toml"
    file.write_text(text)
    config, result = parse("--config", file)
    assert config is None
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert str(file) in result.stderr


@pytest.mark.parametrize("suffix", ["toml", "json"])
def test_a_file_may_begin_with_the_mark_of_utf_8(tmp_path, suffix):
    file = tmp_path / f"run.{suffix}"
    text = {"toml": 'arch = "vgg"\r\nepochs = 3\r\n', "json": '{"epochs": 3}'}[suffix]
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert getattr(parse("--config", file)[0], "epochs", None) == 3
    file.write_text(text, encoding="utf-16")
    _, result = parse("--config", file)
    assert result.exit_code == 2
    assert f"{file} is not text in UTF-8: save it as such" in result.stderr


def test_a_missing_file_is_refused(tmp_path):
    _, result = parse("--config", tmp_path / "none.toml")
    assert result.exit_code == 2
    assert "No such file" in result.stderr
    _, result = parse("--config", tmp_path)
    assert result.exit_code == 2
    assert "directory" in result.stderr

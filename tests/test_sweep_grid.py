import shlex

import pytest

from eqcifar.config import TrainConfig
from eqcifar.errors import UsageError
from eqcifar.fields import parse_values, train_command
from eqcifar.storage import config_hash
from eqcifar.sweeps import Grid, take_shard
from eqcifar_cli._configs import Config, Configs

from .cli_tools import parse_options as parse


def test_a_grid_is_every_combination_once():
    grid = Grid({"mixup": [0, 0.4, 0.0], "arch": ["vgg", "resnet18"], "seed": [1, 0]})
    configs = [(c.seed, c.mixup, c.arch) for c in grid.configs()]
    assert configs == [
        *[(1, 0.0, "vgg"), (1, 0.0, "resnet18"), (1, 0.4, "vgg"), (1, 0.4, "resnet18")],
        *[(0, 0.0, "vgg"), (0, 0.0, "resnet18"), (0, 0.4, "vgg"), (0, 0.4, "resnet18")],
    ]
    assert Grid().configs() == [TrainConfig()]


@pytest.mark.parametrize(
    ("name", "text", "values"),
    [
        ("arch", "vgg, wrn28-10", ["vgg", "wrn28-10"]),
        ("seed", "0-3,7", [0, 1, 2, 3, 7]),
        ("batch_size", "100,200", [100, 200]),
        ("lr", "0.1,1,5e-4", [0.1, 1.0, 5e-4]),
        ("augment", "true,False", [True, False]),
        ("mean", "0.1 0.2 0.3,-1 0 1", [(0.1, 0.2, 0.3), (-1.0, 0.0, 1.0)]),
    ],
)
def test_values_between_commas(name, text, values):
    assert parse_values(name, text) == values


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("seed", "0-x", "seed = '0-x': must be a whole number"),
        ("seed", "3-0", "seed = 3-0: must rise"),
        ("epochs", "1,,2", "epochs = '': must be a whole number"),
        ("lr", "0.1;0.2", "lr = '0.1;0.2': must be a number"),
        ("augment", "no", "augment = 'no': must be true or false"),
        ("arch", "vgg,", "arch = '': must be a text"),
    ],
)
def test_bad_values_are_refused(name, text, message):
    with pytest.raises(UsageError, match=message):
        parse_values(name, text)


def test_shards_are_a_partition():
    configs = Grid({"seed": list(range(7))}).configs()
    shards = [take_shard(configs, f"{part}/3") for part in (1, 2, 3)]
    assert [len(shard) for shard in shards] == [3, 2, 2]
    assert sorted(c.seed for shard in shards for c in shard) == list(range(7))
    for shard in ("0/3", "4/3", "1", "a/b", "1/0", "-1/3"):
        with pytest.raises(UsageError, match="must be i/n with i from 1 to n"):
            take_shard(configs, shard)


FILE = """
epochs = 3
lr = 0.5

[grid]
seed = "0-1"
mixup = [0, 0.4]

[[list]]
arch = "vgg"

[[list]]
arch = "wrn28-10"
lr = 0.1
"""


def test_a_file_has_a_grid_and_a_list(tmp_path):
    path = tmp_path / "sweep.toml"
    path.write_text(FILE)
    configs = Grid.read(path).configs()
    assert configs[:4] == [
        TrainConfig(epochs=3, lr=0.5, arch="vgg", mixup=0.0),
        TrainConfig(epochs=3, lr=0.1, arch="wrn28-10", mixup=0.0),
        TrainConfig(epochs=3, lr=0.5, arch="vgg", mixup=0.4),
        TrainConfig(epochs=3, lr=0.1, arch="wrn28-10", mixup=0.4),
    ]
    assert [c.seed for c in configs] == [0] * 4 + [1] * 4


def test_options_win_over_the_file(tmp_path):
    path = tmp_path / "sweep.toml"
    path.write_text(FILE)
    options = "--file", path, "--lr", "1,2", "--seeds", "5", "--mixup", "0"
    configs, _ = parse(Configs, *options)
    assert configs == [
        TrainConfig(epochs=3, lr=lr, arch=arch, seed=5)
        for lr in (1.0, 2.0)
        for arch in ("vgg", "wrn28-10")
    ]
    configs, _ = parse(Configs, "-a", "vgg,resnet18", "-d", "synthetic", "-b", 5)
    assert configs == [
        TrainConfig(arch=arch, dataset="synthetic", batch_size=5)
        for arch in ("vgg", "resnet18")
    ]


def test_a_file_may_begin_with_the_mark_of_utf_8(tmp_path):
    path = tmp_path / "sweep.toml"
    path.write_bytes(b"\xef\xbb\xbf" + FILE.encode())
    marked = Grid.read(path)
    path.write_text(FILE)
    assert marked == Grid.read(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs 3", "is not valid TOML"),
        ("seeds = '0-3'", "unknown configuration key 'seeds'; did you mean 'seed'?"),
        ("[grid]\nlr = 0.1", "lr = 0.1 in [grid]: must be a list"),
        ("[grid]\nlr = []", "lr = [] in [grid]: must be a list"),
        ("[grid]\nseed = '3-0'", "seed = 3-0: must rise"),
        ("[grid]\nlr = ['a']", "lr = 'a': must be a number"),
        ("grid = 3", "grid must be a table"),
        ("list = [3]", "list must be tables"),
        ("[grid]\nlr=[0.1]\n[[list]]\nlr=0.2", "'lr' is both in [grid] and in"),
    ],
)
def test_bad_files_are_refused(tmp_path, text, message):
    path = tmp_path / "sweep.toml"
    path.write_text(text)
    configs, result = parse(Configs, "--file", path)
    assert configs is None
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    _, result = parse(Configs, "--file", tmp_path / "none.toml")
    assert "No such file" in result.stderr


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig(),
        TrainConfig(arch="vgg", dataset="my images", seed=3, lr=1e-05, augment=False),
        TrainConfig(mean=(0.1, 0.2, 0.30000000000000004), loss="ce", precision="bf16"),
        TrainConfig(batch_size=30, bn_group=15, epochs=1, val_size=10, warmup=0.0),
    ],
)
def test_the_command_of_a_run_trains_that_run(config):
    _, _, *arguments = shlex.split(train_command(config, [config.seed]))
    assert parse(Config, *arguments)[0] == config


@pytest.mark.parametrize("kind", [Config, Configs])
def test_a_folder_of_images_is_one_run_from_everywhere(tmp_path, monkeypatch, kind):
    images = tmp_path / "images"
    for folder in (images, tmp_path / "cifar10", tmp_path / "elsewhere"):
        folder.mkdir()
    file = tmp_path / "file.toml"
    file.write_text('dataset = "images"\n')
    from_file = "--config" if kind is Config else "--file", file

    def given(*arguments) -> TrainConfig:
        found, result = parse(kind, *arguments)
        assert found is not None, result.stderr
        return found[0] if isinstance(found, list) else found

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    configs = [given("-d", name) for name in ("images/", "./images", "~/images")]
    configs += [given("-d", images), given(*from_file)]
    # A hub id is never the folder of that name.
    assert given("-d", "cifar10").dataset == "cifar10"
    monkeypatch.chdir(tmp_path / "elsewhere")
    configs.append(given("-d", "../images"))
    assert {config.dataset for config in configs} == {str(images)}
    assert len(set(map(config_hash, configs))) == 1

"""The table of the original: what is trained, in which order, and what is kept."""

import subprocess
import sys

import numpy as np
import pytest

from eqcifar.recipes import RECIPES
from eqcifar.sweeps import Grid
from study import original, tables


def test_the_sweeps_are_the_recipe_of_the_original():
    configs = [
        config
        for name in original.SWEEPS
        for config in Grid.read(tables.HERE / f"{name}.toml").configs()
    ]
    for config in configs:
        for name, value in RECIPES["original"].items():
            assert name == "arch" or getattr(config, name) == value
        assert (config.epochs, config.batch_size, config.lr) == (200, 1000, 0.8)
    cells = {(config.arch, config.mixup) for config in configs}
    assert len(configs) == 4 * len(cells)
    for published in original.PUBLISHED.values():
        assert published.keys() == cells


def test_a_run_stops_in_time_and_goes_on(tmp_path):
    command = [sys.executable, "-m", "study.original", "run", str(tmp_path / "runs")]
    command += ["synthetic", "synthetic", "--arch", "mlp", "--width", "0.1"]
    command += ["--seeds", "0-1", "--mixup", "0", "--epochs", "1", "--batch-size", "50"]
    command += ["--limit-train", "100", "--limit-test", "50", "--bn-group", "0"]
    command += ["--mixup-group", "0"]
    stopped = subprocess.run([*command, "--minutes", "0"], capture_output=True)
    assert stopped.returncode > 0
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for _ in range(2):
        collect = [sys.executable, "-m", "study.original", "collect"]
        collect += [str(tmp_path / "runs"), "--to", str(tmp_path)]
        subprocess.run(collect, check=True)
    lines = (tmp_path / "original.tsv").read_text().splitlines()
    assert len(lines) == 3
    assert {line.split("\t")[1] for line in lines[1:]} == {"mlp"}


def test_the_page_has_means_over_seeds_beside_what_is_published():
    rng = np.random.default_rng(0)
    accuracies = rng.uniform(0.78, 0.79, 4)
    row = {"dataset": "cifar100", "arch": "original-resnet18", "mixup": 0.4}
    row |= {"epochs": 200.0, "batch_size": 1000.0, "hardware": "a GPU", "software": "s"}
    rows = [
        row | {"seed": seed, "acc_te": accuracy, "seconds": 600.0}
        for seed, accuracy in enumerate(accuracies)
    ]
    shown = f"{accuracies.mean():.4f} ± {accuracies.std(ddof=1):.4f}"
    line = f"| original-resnet18 | 0.4 | {shown} | 4 | .7980 ± .0027 | 200 | 10 min |"
    assert line.replace("0.7", ".7").replace("0.0", ".0") in original.page(rows)


def test_what_it_takes_is_said():
    with pytest.raises(SystemExit):
        original.main(["run", "results"])

"""The pages on many minima against their tables, and what makes them, by SciPy."""

import itertools
import json
import math
import re

import numpy as np
import pytest
from scipy import stats

from eqcifar.figures import figure_style
from eqcifar.sweeps import Grid
from study import choosing_page, minima_rows, samples, samples_page, splits_page, tables

ABOUT = [{"hardware": "a machine", "versions": ["python 3"]}]


def a_network(lr, batch_size, sam, seed, rng):
    """A row of a network whose test error goes with its tr H but for seeds."""
    error = 0.5 + 0.1 * (lr > 0.1) + 0.05 * (sam > 0) + 0.001 * rng.normal()
    sharp = math.exp(10 * error + 0.01 * rng.normal())
    options = {"dataset": "cifar100", "arch": "mlp", "width": 0.1, "lr": lr}
    options |= {"batch_size": batch_size, "weight_decay": 0.0, "sam": sam}
    options |= {"mixup": 0.0, "label_noise": 0.0, "subset": 0.1, "until_loss": 0.1}
    ends = {"loss_tr": 0.1, "acc_tr": 1.0, "loss_te": 2.0, "acc_te": 1 - error}
    found = {"tr_hess": sharp, "tr_hess_te": 3 * sharp, "lmax": rng.uniform()}
    about = {"images": 2000, "samples": 500, "ended": 9, "epochs": 40}
    errors = {f"{name}_se": 0.1 * value for name, value in found.items()}
    return options | about | {"seed": seed} | ends | found | errors


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    grid = itertools.product((0.05, 0.2), (32, 128), (0.0, 0.1), (0, 1))
    return [a_network(*options, rng) for options in grid]


@pytest.fixture
def halves(rows):
    rng = np.random.default_rng(1)
    return [
        {name: row[name] for name in minima_rows.FIELDS}
        | {"split": split, "half": float(half)}
        | {"tr_hess": row["tr_hess"] * times * math.exp(0.1 * rng.normal())}
        for row in rows
        for split, times in (("train", 1), ("test", 3))
        for half in (0, 1)
    ]


def test_records_are_ranked_as_scipy_does(rows):
    ranking = minima_rows.ranked(rows)
    error = [1 - row["acc_te"] for row in rows]
    for name in ("tr_hess", "lmax"):
        (found,) = (
            row
            for row in choosing_page.select(ranking, "cifar100")
            if (row["measure"], row["split"]) == (name, "train")
        )
        expected = stats.kendalltau([row[name] for row in rows], error)[0]
        assert found["tau"] == pytest.approx(expected)
        assert found["networks"] == 16
        assert found["configurations"] == 8
        best = min(rows, key=lambda row: row[name])["acc_te"]
        regret = max(row["acc_te"] for row in rows) - best
        assert found["regret"] == pytest.approx(regret)
    text = choosing_page.page(rows, ranking, ABOUT)
    assert "n = 16 networks of 8 configurations" in text
    assert "above: tr H" in text
    with figure_style():
        left, right = choosing_page.draw(ranking).axes
    assert left.get_xlim() == right.get_xlim() == (-1.05, 1.05)


def test_splits_are_paired_by_configuration(rows, halves):
    found = splits_page.paired(rows, halves, "tr_hess")
    assert (found.networks, found.configurations) == (16, 8)
    assert found.ratio == pytest.approx(3)
    assert found.tau == pytest.approx(1)
    assert found.p == pytest.approx(2 / 2**8)
    assert found.within == pytest.approx(0.1 * math.sqrt(2), rel=0.4)
    assert found.across == pytest.approx(math.log(3), rel=0.1)
    # A row more, without a number, changes nothing.
    more = [*rows, rows[0] | {"tr_hess": math.nan}]
    assert splits_page.paired(more, halves, "tr_hess") == found
    assert "3.00" in splits_page.page(rows, halves, [], ABOUT)
    with figure_style():
        axes = splits_page.draw(rows).axes[0]
    np.testing.assert_allclose(
        np.divide(axes.lines[0].get_ydata(), axes.lines[0].get_xdata()), 3
    )


def test_ratios_along_training_have_the_error_of_both(rows, halves):
    rng = np.random.default_rng(3)
    draws = rng.normal((10, 30), (1, 2), (10_000, 2))
    low, high = np.quantile(draws[:, 1] / draws[:, 0], [0.025, 0.975])
    numbers = {"tr_hess": 10.0, "tr_hess_se": 1.0, "tr_hess_te": 30.0}
    row = rows[0] | numbers | {"tr_hess_te_se": 2.0, "epoch": 4.0, "loss": 1.5}
    text = splits_page.ratio_of(row, "tr_hess")
    middle, *ends = (float(part) for part in re.findall(r"[\d.]+", text))
    assert middle == 3
    assert ends == pytest.approx([low, high], rel=0.03)
    epochs = [row | {"epoch": float(epoch)} for epoch in range(9)]
    page = splits_page.page(rows, halves, epochs, ABOUT)
    assert re.findall(r"\| mlp, CIFAR-100 \| (\d)", page) == ["0", "3", "5", "8"]


def test_the_interval_of_a_ratio_is_students(rows, halves):
    rng = np.random.default_rng(2)
    for row in rows:
        row["tr_hess_te"] = row["tr_hess"] * math.exp(rng.normal())
    found = splits_page.paired(rows, halves, "tr_hess")
    logs = np.log([row["tr_hess_te"] / row["tr_hess"] for row in rows])
    means = logs.reshape(8, 2).mean(axis=1)
    test = stats.ttest_1samp(means, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx(tuple(np.exp(test)))
    assert found.p == pytest.approx(stats.wilcoxon(means)[1])


def a_table(size=2000, seed=0):
    rng = np.random.default_rng(seed)
    exact = rng.gamma(2.0, size=size)
    noise = rng.uniform(0.5, 1.5, size=(size, samples.KEPT))
    return exact, exact[:, None] * noise


def test_drawn_means_have_the_spread_of_theory(monkeypatch):
    monkeypatch.setattr(samples, "DRAWS", 200)
    monkeypatch.setattr(samples, "IMAGES", (50, 1000))
    monkeypatch.setattr(samples, "PROBES", (0, 1, 4))
    exact, noisy = a_table()
    square = exact.mean() ** 2
    about = {
        "images": len(exact),
        "of_images": exact.var(ddof=1) / square,
        "of_probes": noisy.var(axis=1, ddof=1).mean() / square,
    }
    for row in samples.drawn_means(exact, noisy):
        expected = samples_page.theory(about, row["n"], row["probes"])
        assert row["spread"] / exact.mean() == pytest.approx(expected, rel=0.2)
        assert row["told"] / row["spread"] > 0.8
        # One probe does not tell its error from the draw's, which then counts whole.
        assert row["told"] / row["spread"] < 1.2 or row["probes"] == 1
        assert row["held"] / row["draws"] > 0.88


def test_plans_and_stops_come_as_near_as_they_say(monkeypatch):
    monkeypatch.setattr(samples, "DRAWS", 200)
    exact, _ = a_table()
    for row in samples.drawn_plans(exact):
        assert row["stopped_near"] / row["draws"] > 0.88
        assert row["planned_near"] / row["draws"] > 0.88
    stopped, _ = samples.stopped(exact, 1e-9)
    assert stopped == len(exact)


def test_the_variation_is_that_of_the_standard_error(rows):
    row = rows[0] | {"tr_hess": 4.0, "tr_hess_se": 0.2}
    # se² = mean² v / n (1 - n/N)
    variation = samples_page.squared_variation(row, "tr_hess")
    assert 4.0 * math.sqrt(variation / 500 * 0.75) == pytest.approx(0.2)
    assert samples_page.images_for(variation, 0.1) == pytest.approx(384.16 * variation)


def test_rows_of_other_machines_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    tables.renew_table("t", [{"a": "x", "b": 1, "c": 5}, {"a": "y", "b": 1}], "ab")
    tables.renew_table("t", [{"a": "x", "b": 1.0, "c": 6}, {"a": "w", "b": 2}], "ab")
    found = tables.read_table("t")
    assert [(row["a"], row["b"]) for row in found] == [("w", 2), ("x", 1), ("y", 1)]
    assert found[1]["c"] == 6
    assert tables.read_table("other") == []


def test_the_sweeps_hold_whole_factorials():
    configs = Grid.read(tables.HERE / "minima.toml").configs()
    steps = Grid.read(tables.HERE / "minima_steps.toml").configs()
    assert len({*configs, *steps}) == len(configs) + len(steps) == 64
    for config in configs:
        same = [c for c in configs if (c.arch, c.seed) == (config.arch, config.seed)]
        assert len({(c.lr, c.batch_size, c.sam) for c in same}) == len(same) == 8


@pytest.mark.parametrize("page", [choosing_page, splits_page, samples_page])
def test_pages_are_what_the_tables_say(page):
    name = page.__name__.rpartition(".")[2].removesuffix("_page")
    file = tables.PAGES / f"{name}.md"
    there = (tables.RESULTS / "minima.json").exists()
    assert file.exists() == there
    if there:
        assert page.made_page() == file.read_text()
        about = json.loads((tables.RESULTS / "minima.json").read_text())
        assert all({"hardware", "versions"} <= each.keys() for each in about)

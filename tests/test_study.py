"""The pages of `study` against their tables, by SciPy and NumPy."""

import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from eqcifar.results import summarise
from eqcifar.sweeps import Grid
from study import sam_page, tables

RUNS = np.genfromtxt(tables.RESULTS / "sam_runs.tsv", delimiter="\t", names=True)
CURVES = np.genfromtxt(tables.RESULTS / "sam_curves.tsv", delimiter="\t", names=True)
PAGE = (tables.PAGES / "sam.md").read_text()
# Noise, radius, MixUp, epochs.
SGD, LONG, SAM, MIXUP = (0, 0, 24), (0, 0, 48), (0.1, 0, 24), (0, 1, 24)
METHODS = {"SGD": SGD, "SGD, twice the epochs": LONG, "SAM": SAM, "MixUp": MIXUP}


def of(method, noise=0.0, table=RUNS):
    names = "label_noise", "sam", "mixup", "epochs"
    wanted = noise, *method
    return table[
        np.all([table[n] == x for n, x in zip(names, wanted, strict=True)], axis=0)
    ]


def table_rows(title):
    part = PAGE.split(f"## {title}")[1].split("##")[0]
    lines = [line for line in part.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def numbers(text):
    return [float(x) for x in re.findall(r"[-+]?\d+(?:\.\d+)?", text)]


def test_the_page_is_what_the_tables_say():
    assert sam_page.made_page() == PAGE
    assert (tables.PAGES / "sam.svg").stat().st_size > 10_000


def test_the_sweep_has_the_runs_of_the_tables():
    configs = Grid.read(tables.HERE / "sam.toml").configs()
    planned = {tuple(getattr(c, name) for name in sam_page.FIELDS) for c in configs}
    done = [tuple(float(row[name]) for name in sam_page.FIELDS) for row in RUNS]
    assert len(set(done)) == len(done)
    assert set(done) <= planned
    for row in RUNS:
        same = [CURVES[name] == row[name] for name in sam_page.FIELDS]
        last = CURVES[np.all(same, axis=0)][-1]
        assert (last["epoch"], last["acc_te"]) == (row["epochs"], row["acc_te"])


def test_means_and_intervals_are_students():
    for name, gradients, n, *cells in table_rows("Right labels"):
        rows = of(METHODS[name])
        assert int(n) == len(rows)
        assert int(gradients) == {"SGD": 1, "MixUp": 1}.get(name, 2)
        columns = [100 * rows["acc_tr"], 100 * rows["acc_te"]]
        columns.append(1000 * rows["loss_tr"])
        columns += [rows[name] for name in ("lmax", "tr_hess", "tr_ggn")]
        for cell, values in zip(cells, columns, strict=True):
            values = values[np.isfinite(values)]
            if not len(values):
                assert cell == ""
                continue
            mean, *half = numbers(cell)
            step = 0.051 if "." in cell else 0.51
            assert mean == pytest.approx(values.mean(), abs=step)
            if len(values) > 1:
                quantile = stats.t.ppf(0.975, len(values) - 1)
                expected = quantile * stats.sem(values)
                assert half == [pytest.approx(expected, abs=step)]


def test_differences_and_ratios_are_welchs():
    gains, *ratios = (
        line for line in PAGE.splitlines() if re.match("- (Test|λ)", line)
    )
    assert bool(ratios) == np.isfinite(of(SAM)["lmax"]).any()
    found = [numbers(part) for part in gains.split(":")[1].split(", ")]
    for (effect, *interval), other in zip(found, (SGD, LONG), strict=True):
        test = stats.ttest_ind(
            *(100 * of(method)["acc_te"] for method in (SAM, other)), equal_var=False
        )
        expected = of(SAM)["acc_te"].mean() - of(other)["acc_te"].mean()
        assert effect == pytest.approx(100 * expected, abs=0.051)
        assert interval == pytest.approx(list(test.confidence_interval()), abs=0.051)
    found = [
        numbers(part.split(". Near")[0].rpartition(":")[2])
        for line in ratios
        for part in line.split(";")
    ]
    for (effect, *interval), name in zip(
        found, ("lmax", "tr_hess", "loss_tr"), strict=False
    ):
        a, b = (np.log(of(method)[name]) for method in (SAM, SGD))
        a, b = a[np.isfinite(a)], b[np.isfinite(b)]
        assert effect == pytest.approx(np.exp(a.mean() - b.mean()), abs=0.0051)
        if min(len(a), len(b)) < 2:
            assert interval == []
            continue
        test = stats.ttest_ind(a, b, equal_var=False).confidence_interval()
        assert interval == pytest.approx(list(np.exp(test)), abs=0.0051)


def test_memorisation_is_what_the_page_says():
    line = next(line for line in PAGE.splitlines() if "memorises" in line)
    share, given, true, best, epoch, end = numbers(line)
    noise = share / 100
    assert noise == RUNS["label_noise"].max()
    rows, curves = of(SGD, noise), of(SGD, noise, CURVES)
    assert given == pytest.approx(100 * rows["acc_tr"].mean(), abs=0.051)
    assert true == pytest.approx(100 * rows["acc_tr_true"].mean(), abs=0.051)
    assert end == pytest.approx(100 * rows["acc_te"].mean(), abs=0.051)
    means = {
        e: 100 * curves["acc_te"][curves["epoch"] == e].mean()
        for e in np.unique(curves["epoch"])
    }
    assert means[epoch] == max(means.values()) == pytest.approx(best, abs=0.051)
    # All given labels, the right ones among them, and worse on new images.
    assert given > 99
    assert true == pytest.approx(100 - share, abs=2)
    assert best - end > 5


def test_the_picture_has_the_curves_and_their_ranges():
    from eqcifar.figures import figure_style

    with figure_style():
        figure = sam_page.draw(tables.read_table("sam_curves"))
    noises = np.unique(CURVES["label_noise"])
    assert len(figure.axes) == 3 * len(noises)
    for axes, noise in zip(figure.axes[-len(noises) :], noises, strict=True):
        for line, method in zip(axes.lines, (SGD, SAM, MIXUP), strict=True):
            rows = of(method, noise, CURVES)
            epochs = np.unique(rows["epoch"])
            means = [rows["acc_te"][rows["epoch"] == e].mean() for e in epochs]
            np.testing.assert_allclose(np.asarray(line.get_xdata()), epochs)
            np.testing.assert_allclose(
                np.asarray(line.get_ydata()), 100 * np.array(means)
            )


def test_what_is_collected_is_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    rows = [{"a": 1, "b": 1 / 3}, {"a": 2}]
    tables.write_table("t", rows)
    first, second = tables.read_table("t")
    assert first == {"a": 1.0, "b": 1 / 3}
    assert np.isnan(second["b"])
    assert np.isnan(sam_page.half_interval(summarise([1.0])))


def test_no_path_of_a_machine_is_kept():
    for path in [tables.PAGES / "sam.md", *Path(tables.HERE).rglob("*.[tj]s*")]:
        assert not re.search(r"(?<![\w.])/(?:work|home|root|tmp)/", path.read_text())

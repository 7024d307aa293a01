import dataclasses
import math
import re
import sys
import xml.etree.ElementTree
from typing import Any

import numpy as np
import pytest

from eqcifar.config import TrainConfig
from eqcifar.figures import save_figure
from eqcifar.results import plot_against, plot_all, plot_curves, read_records, tabulate
from eqcifar.results._plot import rank_correlation
from eqcifar.storage import append_wide

from .cli_tools import run_cli
from .results_tools import write_grid, write_run

pytest.importorskip("matplotlib")
from scipy.stats import kendalltau  # noqa: E402


def tables_of(root):
    return tabulate(read_records(root))


def test_a_curve_is_the_mean_and_its_band_the_deviation(tmp_path):
    for seed, accuracies in enumerate([(0.1, 0.5), (0.3, 0.5), (0.2, 0.8)]):
        rows = [{"epoch": e + 1, "acc_te": a} for e, a in enumerate(accuracies)]
        write_run(tmp_path, TrainConfig(epochs=2, seed=seed), rows=rows)
    # What is not done does not count.
    write_run(tmp_path, TrainConfig(epochs=2, seed=3), 0.9, state="failed")
    (table,) = tables_of(tmp_path)
    (figure,) = plot_curves(table, "acc_te").values()
    (axes,) = figure.axes
    line: Any = axes.lines[0]
    assert line.get_xdata().tolist() == [1, 2]
    assert line.get_ydata() == pytest.approx([0.2, 0.6])
    (band,) = axes.collections
    corners: Any = band.get_paths()[0].vertices
    for epoch, mean, std in ((1, 0.2, 0.1), (2, 0.6, 0.03**0.5)):
        heights = corners[corners[:, 0] == epoch, 1]
        assert heights.min() == pytest.approx(mean - std)
        assert heights.max() == pytest.approx(mean + std)
    assert line.get_label() == "resnet18 (n = 3)"
    assert axes.get_ylabel() == "test accuracy (share of images)"
    assert axes.get_title() == "cifar10, seeds 0-2"
    assert "n = 3 runs, bands: one sample standard deviation" in str(figure.get_label())


def test_lines_differ_in_more_than_colour(tmp_path):
    write_grid(tmp_path)
    (table,) = tables_of(tmp_path)
    figures = plot_curves(table, "acc_te")
    assert list(figures) == ["acc_te on cifar10", "acc_te on cifar100"]
    for figure in figures.values():
        lines: Any = figure.axes[0].lines
        assert len(lines) == 6
        for name in ("color", "marker"):
            assert len({getattr(line, f"get_{name}")() for line in lines}) == 6
        # Dashes are scaled and private to Matplotlib.
        assert len({str(line._unscaled_dash_pattern) for line in lines}) == 6


def test_many_configurations_are_spread_over_figures(tmp_path):
    for index in range(20):
        arch = ("vgg", "resnet18")[index < 16]
        write_run(tmp_path, TrainConfig(arch=arch, lr=0.1 + index, epochs=1))
    (table,) = tables_of(tmp_path)
    figures = plot_curves(table, "acc_te")
    assert [len(figure.axes[0].lines) for figure in figures.values()] == [7, 7, 2, 4]
    assert list(figures)[1] == "acc_te on cifar10, resnet18 (2 of 3)"


def test_a_log_that_cannot_be_drawn_is_named(tmp_path):
    write_run(tmp_path, TrainConfig(epochs=2, seed=0), 0.9)
    run = write_run(tmp_path, TrainConfig(epochs=2, seed=1), 0.9)
    records = read_records(tmp_path)
    log = run.path / "log.tsv"
    log.write_text(log.read_text().replace("\n1\t", "\none\t"))
    lines = []
    figures = plot_curves(tabulate(records)[0], "acc_te", warn=lines.append)
    assert len(figures) == 1
    (line,) = lines
    assert f"{log}: line 2" in line


def test_accuracy_against_sharpness(tmp_path):
    write_grid(tmp_path, sharpness=True)
    (table,) = tables_of(tmp_path)
    figures = plot_against(table, "tr_hess", "acc_te")
    assert len(figures) == 2
    for dataset in ("cifar10", "cifar100"):
        (axes,) = figures[f"acc_te against tr_hess on {dataset}"].axes
        groups = [g for g in table.groups if g.fields["dataset"] == dataset]
        x = [value for group in groups for value in group.values("tr_hess")]
        y = [value for group in groups for value in group.values("acc_te")]
        containers: Any = axes.containers
        drawn = [container.lines[0] for container in containers]
        assert [v for line in drawn for v in line.get_xdata()] == x
        assert [v for line in drawn for v in line.get_ydata()] == y
        for container, group in zip(containers, groups, strict=True):
            (bars,) = container.lines[2]
            half = [(b[1, 0] - b[0, 0]) / 2 for b in bars.get_segments()]
            errors = group.values("tr_hess_se")
            assert half == pytest.approx([1.96 * error for error in errors])
        means = [
            [np.mean(group.values(name)) for group in groups]
            for name in ("tr_hess", "acc_te")
        ]
        tau, _ = kendalltau(*means)
        assert f"τ of 6 rows' means: {tau:.2f} [" in axes.get_title()
        label = axes.get_xlabel().replace("\N{NO-BREAK SPACE}", " ")
        assert label == "tr_hess, train images (½‖f − y‖² / parameter²)"
    assert plot_against(table, "tr_ntk", "acc_te") == {}
    few = table.groups[:5]
    for figure in plot_against(
        dataclasses.replace(table, groups=few), "tr_hess", "acc_te"
    ).values():
        assert "τ" not in figure.axes[0].get_title()


def test_the_interval_of_a_rank_correlation_covers_the_truth():
    rng = np.random.default_rng(0)
    # For normal pairs tau is 2/pi arcsin rho.
    for rho, rows in ((0.0, 6), (0.7, 12)):
        hits = []
        for _ in range(300):
            x, z = rng.normal(size=(2, rows))
            y = rho * x + math.sqrt(1 - rho**2) * z
            _, low, high = rank_correlation(x.tolist(), y.tolist())
            hits.append(low <= 2 / math.pi * math.asin(rho) <= high)
        assert 0.9 <= np.mean(hits) <= 0.99


def write_logged(root, seeds=3, **fields):
    """Runs with a `sharpness_log.tsv` of every second epoch, and no other measures."""
    for seed in range(seeds):
        run = write_run(root, TrainConfig(epochs=4, seed=seed, **fields), 0.9)
        rows = [
            {
                "epoch": epoch,
                "time": "2026-01-01",
                "examples": 500,
                "tr_hess": 10.0 * epoch + seed,
                "tr_hess_se": 3.0,
                "tr_ggn": 10.0 * epoch + seed,
                "tr_ggn_se": 3.0,
                "lmax": 1.0 + seed,
                "lmax_se": math.nan,
            }
            for epoch in (2, 4)
        ]
        for row in rows:
            append_wide(run.path / "sharpness_log.tsv", row)


def test_measures_along_training_are_drawn_over_the_epochs(tmp_path):
    write_logged(tmp_path)
    (table,) = tables_of(tmp_path)
    # The last row is what tables show.
    (group,) = table.groups
    assert group.values("tr_hess") == [40.0, 41.0, 42.0]
    figures = plot_all(table, ["tr_hess", "tr_ggn", "acc_te"])
    assert list(figures) == [
        "tr_hess on cifar10",
        "acc_te on cifar10",
    ] + [f"acc_te against {m} on cifar10" for m in ("tr_hess", "lmax")]
    (axes,) = figures["tr_hess on cifar10"].axes
    line: Any = axes.lines[0]
    assert line.get_xdata().tolist() == [2, 4]
    assert line.get_ydata() == pytest.approx([21.0, 41.0])
    containers: Any = axes.containers
    (bars,) = containers[0].lines[2]
    # Of a mean of three, each with a standard error of 3.
    half = [(b[1, 1] - b[0, 1]) / 2 for b in bars.get_segments()]
    assert half == pytest.approx([1.96 * 3.0 / math.sqrt(3)] * 2)
    caption = str(figures["tr_hess on cifar10"].get_label())
    assert "95 % intervals of measuring on 500 images" in caption
    assert "tr_ggn: the same numbers" in caption
    result = run_cli("plot", tmp_path, "-m", "tr_hess", "-o", tmp_path / "p")
    assert result.exit_code == 0, result.stderr
    assert {p.stem for p in (tmp_path / "p").iterdir()} == {"tr_hess_on_cifar10"}


def test_a_row_of_another_epoch_is_not_the_last(tmp_path):
    run = write_run(tmp_path, TrainConfig(epochs=4), 0.9)
    append_wide(run.path / "sharpness_log.tsv", {"epoch": 2, "tr": 1.0, "tr_se": 0.1})
    (record,) = read_records(tmp_path)
    assert "tr" not in record.values


def test_what_was_measured_once_has_no_curve(tmp_path):
    write_run(tmp_path, TrainConfig(epochs=2), 0.9, sharpness={"tr": 1.0, "tr_se": 0.1})
    result = run_cli("plot", tmp_path, "-m", "tr", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "--sharpness-every" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["$\\input{a}$", "a$b$_{", "<b>&\"'", "\\frac{"])
def test_names_are_no_formulas(tmp_path, name):
    for seed in range(2):
        config = TrainConfig(dataset=f"/{name}", epochs=2, seed=seed)
        write_run(
            *(tmp_path, config, 0.9),
            path=tmp_path / f"run{seed}",
            sharpness={"tr": 1000.0**seed, "tr_se": 0.1},
        )
    (table,) = tables_of(tmp_path)
    figures = plot_all(table, ["acc_te"])
    assert len(figures) == 2
    for figure in figures.values():
        save_figure(figure, tmp_path / "figure.svg", text_as_paths=False)
        drawn = xml.etree.ElementTree.parse(tmp_path / "figure.svg")
        texts = ["".join(node.itertext()) for node in drawn.iter()]
        assert any(name in text for text in texts)
        assert not any("mathdefault" in text for text in texts)


def test_files_are_the_same_each_time(tmp_path):
    write_run(tmp_path, TrainConfig(epochs=3), 0.9)
    (table,) = tables_of(tmp_path)
    for kind in ("png", "svg"):
        contents = []
        for _ in range(2):
            (figure,) = plot_curves(table, "acc_te").values()
            save_figure(figure, tmp_path / f"figure.{kind}")
            contents.append((tmp_path / f"figure.{kind}").read_bytes())
        assert contents[0] == contents[1]


def test_the_command_writes_both_kinds(tmp_path):
    for seed in range(2):
        config = TrainConfig(epochs=3, seed=seed)
        write_run(tmp_path / "r", config, 0.9, sharpness={"tr": 2.0 + seed})
    synthetic = TrainConfig(dataset="synthetic", epochs=3)
    write_run(tmp_path / "r", synthetic, 0.9)
    result = run_cli("plot", tmp_path / "r", "-o", tmp_path / "p")
    assert result.exit_code == 0, result.stderr
    names = {path.name for path in (tmp_path / "p").iterdir()}
    assert names == {
        f"{name}.{kind}"
        for kind in ("png", "svg")
        for name in (
            "acc_te_on_cifar10",
            "acc_te_against_tr_on_cifar10",
            "SYNTHETIC_acc_te_on_synthetic",
        )
    }
    assert set(result.stdout.split()) == {str(tmp_path / "p" / name) for name in names}
    png = (tmp_path / "p" / "acc_te_on_cifar10.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    svg = (tmp_path / "p" / "SYNTHETIC_acc_te_on_synthetic.svg").read_text()
    assert re.search(r"<svg[^>]*viewBox", svg)


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    write_run(tmp_path, TrainConfig(epochs=1), 0.9)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for command in ("plot", "report"):
        result = run_cli(command, tmp_path, "-o", tmp_path / "out")
        assert result.exit_code == 2
        assert result.stderr.count("\n") == 1
        assert 'pip install "eqcifar[plot]"' in result.stderr
        assert not (tmp_path / "out").exists()


def test_nothing_done_is_nothing_to_draw(tmp_path):
    write_run(tmp_path, TrainConfig(epochs=1), state="failed")
    result = run_cli("plot", tmp_path, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "nothing to draw: no run in" in result.stderr

import re
import sys
from typing import Any

import pytest

from eqcifar.config import TrainConfig
from eqcifar.runs import (
    plot_against,
    plot_curves,
    read_records,
    save_figure,
    tabulate,
)

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
    assert line.get_label() == "resnet18 (3)"
    assert axes.get_ylabel() == "test accuracy"


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
        tau, _ = kendalltau(x, y)
        assert f"τ = {tau:.2f}, 24 runs" in axes.get_title()
    assert plot_against(table, "tr_ntk", "acc_te") == {}


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

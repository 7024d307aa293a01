import math
import random
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from eqcifar.config import TrainConfig
from eqcifar.errors import UsageError
from eqcifar.results import (
    check_baseline,
    filter_records,
    long_rows,
    measured_columns,
    parse_baseline,
    pivot,
    read_records,
    sharpness_columns,
    summarise,
    tabulate,
    to_delimited,
    to_latex,
    to_markdown,
    welch,
)
from eqcifar.results._pivot import TextTable
from eqcifar.storage import COLUMNS, find_runs, write_json
from eqcifar.storage._growing_table import append_wide

from .results_tools import write_grid, write_run


def table_of(root, **options):
    (table,) = tabulate(read_records(root), **options)
    return table


def test_a_table_agrees_with_pandas(tmp_path):
    write_grid(tmp_path)
    rows = long_rows(tabulate(read_records(tmp_path)), ["acc_te"])
    frames = []
    for run in find_runs(tmp_path):
        frame = pd.read_csv(run.path / "log.tsv", sep="\t")
        last = frame.iloc[-1]
        keys = {k: run.config()[k] for k in ("arch", "dataset", "mixup", "seed")}
        frames.append({**keys, "acc_te": last["acc_te"], "s": frame["seconds"].sum()})
    grouped = pd.DataFrame(frames).groupby(["arch", "dataset", "mixup"])
    assert len(rows) == grouped.ngroups == 12
    for row in rows:
        group = grouped.get_group((row["arch"], row["dataset"], row["mixup"]))
        assert row["count"] == len(group) == 4
        assert row["mean"] == pytest.approx(group["acc_te"].mean(), rel=1e-14)
        assert row["std"] == pytest.approx(group["acc_te"].std(), rel=1e-10)
        assert row["seconds_per_model"] == pytest.approx(group["s"].mean(), rel=1e-14)
    population = long_rows(tabulate(read_records(tmp_path)), ["acc_te"], ddof=0)
    for row in population:
        group = grouped.get_group((row["arch"], row["dataset"], row["mixup"]))
        assert row["std"] == pytest.approx(np.std(group["acc_te"]), rel=1e-10)


@pytest.mark.parametrize("sizes", [(4, 4), (2, 7), (3, 2)])
def test_welch_agrees_with_scipy(sizes):
    rng = np.random.default_rng(sum(sizes))
    a, b = rng.normal(1.0, 0.1, sizes[0]), rng.normal(1.2, 0.5, sizes[1])
    expected: Any = scipy.stats.ttest_ind(a, b, equal_var=False)
    interval = expected.confidence_interval(0.95)
    found = welch(a.tolist(), b.tolist())
    assert found.effect == pytest.approx(a.mean() - b.mean())
    assert found.t == pytest.approx(expected.statistic)
    assert found.dof == pytest.approx(expected.df)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_welch_needs_two_runs_and_a_spread():
    assert math.isnan(welch([1.0], [2.0, 3.0]).p)
    assert math.isnan(welch([1.0, 1.0], [2.0, 2.0]).t)
    assert welch([1.0, 1.0], [2.0, 2.0]).effect == -1.0
    assert math.isnan(welch([], []).effect)


def test_a_summary_leaves_out_what_was_not_measured():
    summary = summarise([1.0, math.nan, 3.0])
    assert (summary.count, summary.mean, summary.std) == (2, 2.0, math.sqrt(2))
    assert math.isnan(summarise([1.0]).std)
    assert summarise([1.0], ddof=0).std == 0.0
    assert math.isnan(summarise([]).mean)
    assert summarise([1.0, math.inf]).mean == math.inf


def test_architectures_stand_down_and_datasets_across(tmp_path):
    write_grid(tmp_path)
    table = pivot(table_of(tmp_path), ["acc_te"])
    assert table.columns == ["arch", "mixup", "cifar10", "cifar100", "time per model"]
    keys = [row[:2] for row in table.rows]
    archs = "resnet18", "vgg", "wrn28-10"
    assert keys == [[arch, mixup] for arch in archs for mixup in ("0", "0.4")]
    rng = np.array([float(row[2].split()[0]) for row in table.rows])
    assert abs(rng - [0.95, 0.957, 0.93, 0.937, 0.96, 0.967]).max() < 0.002
    assert all(row[2].endswith("(4)") and " ± 0.00" in row[2] for row in table.rows)
    assert table.notes == ["All with epochs=20."]


def test_folder_names_say_nothing(tmp_path):
    for seed in range(3):
        config = TrainConfig(epochs=1, seed=seed)
        write_run(tmp_path, config, path=tmp_path / f"vgg-mixup{seed}" / "seed9")
    (group,) = table_of(tmp_path).groups
    assert group.fields == {"arch": "resnet18", "dataset": "cifar10"}
    assert group.seeds("done") == [0, 1, 2]


def test_synthetic_and_real_never_share_a_row(tmp_path):
    # Synthetic images in a folder, under the name that real ones had.
    for seed in range(4):
        config = TrainConfig(dataset="images", epochs=1, seed=seed)
        write_run(tmp_path, config, 0.5 + seed / 10, synthetic=seed % 2 == 1)
    tables = tabulate(read_records(tmp_path))
    assert [(t.synthetic, t.groups[0].seeds("done")) for t in tables] == [
        (False, [0, 2]),
        (True, [1, 3]),
    ]
    titles = [pivot(table, ["acc_te"]).title for table in tables]
    assert [title.startswith("SYNTHETIC") for title in titles] == [False, True]
    rows = long_rows(tabulate(read_records(tmp_path), by=["arch"]), ["acc_te"])
    assert [row["synthetic"] for row in rows] == [False, True]


def test_images_that_changed_are_told_apart(tmp_path):
    for seed in range(4):
        run = write_run(tmp_path, TrainConfig(epochs=1, seed=seed))
        digest = "changed!" if seed == 3 else "original"
        changed = {**run.description(), "data": {"sha256": digest}}
        write_json(run.path / "config.json", changed)
    groups = table_of(tmp_path).groups
    assert {g.fields["data"]: g.seeds("done") for g in groups} == {
        "changed!": [3],
        "original": [0, 1, 2],
    }


def test_what_is_not_done_is_counted_and_named(tmp_path):
    states = ["done", "done", "running", "failed", "interrupted"]
    for seed, state in enumerate(states):
        write_run(tmp_path, TrainConfig(epochs=1, seed=seed), 0.9, state=state)
    write_run(tmp_path, TrainConfig(epochs=1, seed=7, arch="vgg"), 0.9)
    table = table_of(tmp_path, seeds=[0, 1, 7])
    (resnet, vgg) = table.groups
    assert (resnet.missing, vgg.missing) == ((7,), (0, 1))
    text = pivot(table, ["acc_te"])
    assert text.rows[0][1].endswith("(2 of 6)")
    assert text.notes[1] == (
        "arch=resnet18, dataset=cifar10: seed 2 running; seed 4 interrupted; seed 3 "
        "failed; seed 7 missing."
    )
    assert "seeds 0-1 missing" in text.notes[2]


def test_selection_names_its_split(tmp_path):
    config = TrainConfig(epochs=3, val_size=10)
    rows = [
        {"epoch": 1, "acc_va": 0.2, "acc_te": 0.9, "seconds": 1.0},
        {"epoch": 2, "acc_va": 0.8, "acc_te": 0.5, "seconds": 1.0},
        {"epoch": 3, "acc_va": math.nan, "acc_te": 0.7, "seconds": 1.0},
    ]
    write_run(tmp_path, config, rows=rows)
    expected = {"last": 0.7, "val": 0.5, "test": 0.9}
    for select, accuracy in expected.items():
        (table,) = tabulate(read_records(tmp_path, select=select))
        assert table.groups[0].values("acc_te") == [accuracy]
        assert table.groups[0].seconds() == 3.0
        title = pivot(table, ["acc_te"], select=select).title
        assert (f"selected on the {select} split" in title.lower()) == (
            select != "last"
        )
        (row,) = long_rows([table], ["acc_te"], select=select)
        assert row["selected_on"] == select
    assert "acc_va" in measured_columns(tabulate(read_records(tmp_path, select="val")))


def test_a_selection_on_a_split_that_was_not_held_out_is_refused(tmp_path):
    write_run(tmp_path, TrainConfig(epochs=2))
    write_run(tmp_path, TrainConfig(epochs=2, seed=1), state="running", host="a")
    with pytest.raises(
        UsageError, match="no run has measured validation .* --val-size"
    ):
        read_records(tmp_path, select="val")
    rows = [{"epoch": 1, "acc_va": 0.2, "acc_te": 0.5, "seconds": 1.0}]
    write_run(tmp_path, TrainConfig(epochs=1, val_size=9), rows=rows)
    said = []
    records = read_records(tmp_path, select="val", warn=said.append)
    assert [record.values.get("acc_te") for record in records] == [None, 0.5, None]
    (line,) = said
    assert line.endswith("it has measured no validation images")


def test_filters_and_fields(tmp_path):
    write_grid(tmp_path)
    records = read_records(tmp_path)
    chosen = filter_records(records, ["arch=vgg,resnet18", "mixup=0.4"])
    assert len(chosen) == 16
    assert len(filter_records(records, ["seed=0-1", "augment=true"])) == 24
    assert len(filter_records(records, ["seed=0-9", "arch=vgg", "arch=resnet18"])) == 32
    assert len(filter_records(records, ["mean=0.5 0.5 0.5"])) == len(records)
    assert filter_records(records, []) == records


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ("mixup=1", r"unknown mixup of these runs .1.; there are 0, 0\.4"),
        ("mixpu=1", "did you mean 'mixup'"),
        ("mixup=x", "mixup = 'x': must be a number"),
        ("mixup", "'mixup' has no value: write mixup=VALUE"),
        ("seed=7-9", "unknown seed of these runs .7-9.; there are 0, 1, 2, 3$"),
        # One value that is there does not excuse another that is not.
        (
            "arch=vgg,resnet20",
            r"unknown arch of these runs 'resnet20'; did you mean 'resnet18'\? "
            "There are resnet18, vgg",
        ),
        # The comma would make a second value, which nothing has.
        ("dataset=cifar10,arch=vgg", "'arch=vgg' is no value of dataset: give each"),
        ("mixup=0,arch=vgg", "'arch=vgg' is no value of mixup: give each"),
    ],
)
def test_filters_that_say_nothing_are_refused(tmp_path, filters, message):
    write_grid(tmp_path)
    with pytest.raises(UsageError, match=message):
        filter_records(read_records(tmp_path), [filters])


def test_filters_that_leave_nothing_are_refused(tmp_path):
    write_run(tmp_path, TrainConfig(arch="vgg", epochs=1))
    write_run(tmp_path, TrainConfig(mixup=0.4, epochs=1))
    with pytest.raises(UsageError, match=r"no run has arch=vgg and mixup=0\.4, though"):
        filter_records(read_records(tmp_path), ["arch=vgg", "mixup=0.4"])


def test_values_with_commas_and_equals_signs_can_be_asked_for(tmp_path):
    for dataset in ("/data/a=1,b=2", "/data/c"):
        write_run(tmp_path, TrainConfig(dataset=dataset, epochs=1))
    (record,) = filter_records(read_records(tmp_path), ["dataset=/data/a=1,b=2"])
    assert record.recipe.dataset == "/data/a=1,b=2"


def test_what_was_said_of_a_run_is_a_field(tmp_path):
    for noise in (0.2, 0.1, 0):
        for seed in range(2):
            config = TrainConfig(arch="my.nets.Gelu", epochs=1, seed=seed)
            about = {"noise": noise, "kind": f"b{int(10 * noise)}"}
            path = tmp_path / f"{noise}-{seed}"
            write_run(tmp_path, config, path=path, about=about, in_python=True)
    write_run(tmp_path, TrainConfig(epochs=1))
    records = read_records(tmp_path)
    (table,) = tabulate(records)
    assert table.fields == ("arch", "dataset", "noise", "kind")
    assert [tuple(group.fields.values()) for group in table.groups] == [
        ("Gelu", "cifar10", 0, "b0"),
        ("Gelu", "cifar10", 0.1, "b1"),
        ("Gelu", "cifar10", 0.2, "b2"),
        ("resnet18", "cifar10", None, None),
    ]
    assert pivot(table, ["acc_te"]).rows[-1][1:3] == ["–", "–"]
    assert len(filter_records(records, ["noise=0.1,2e-1"])) == 4
    assert len(filter_records(records, ["kind=b1", "arch=Gelu", "seed=1"])) == 1
    assert len(filter_records(records, ["arch=my.nets.Gelu"])) == 6
    with pytest.raises(
        UsageError, match=r"noise of these runs .0\.3.; .* There are –, 0, 0\.1"
    ):
        filter_records(records, ["noise=0.3"])
    with pytest.raises(UsageError, match="unknown option 'nose'; did you mean 'noise'"):
        filter_records(records, ["nose=0.3"])
    (table,) = tabulate(records, by=["noise"], sort="-noise")
    assert [group.fields["noise"] for group in table.groups] == [0.2, 0.1, 0, None]
    baseline = parse_baseline("noise=0.0", filter_records(records, ["arch=Gelu"]))
    check_baseline([table], baseline)


def test_a_folder_of_images_is_shown_by_the_end_of_its_path(tmp_path):
    for dataset in ("/data/a/cats", "/data/b/cats", "/data/dogs", "cifar10"):
        write_run(tmp_path, TrainConfig(dataset=dataset))
    grid = pivot(table_of(tmp_path), ["acc_te"])
    assert grid.columns[1:-1] == ["a/cats", "b/cats", "cifar10", "dogs"]
    records = read_records(tmp_path)
    assert len(filter_records(records, ["dataset=cats"])) == 2
    assert len(filter_records(records, ["dataset=b/cats"])) == 1
    for text in ("dataset=dogs", "dataset=/data/dogs"):
        (record,) = filter_records(records, [text])
        assert record.recipe.dataset == "/data/dogs"


def test_pooling_is_said(tmp_path):
    write_grid(tmp_path)
    table = table_of(tmp_path, by=["arch"])
    assert table.pooled == ("dataset", "mixup")
    assert [len(group.done) for group in table.groups] == [16, 16, 16]
    text = pivot(table, ["acc_te"])
    assert "(runs)" in text.title
    assert "Runs with different dataset, mixup are pooled." in text.notes
    with pytest.raises(UsageError, match="unknown option 'network'"):
        tabulate(read_records(tmp_path), by=["network"])


def test_sorting(tmp_path):
    write_grid(tmp_path)
    records = read_records(tmp_path)
    (table,) = tabulate(records, sort="-acc_te")
    means = [group.summary("acc_te").mean for group in table.groups]
    assert means == sorted(means, reverse=True)
    (table,) = tabulate(records, sort="-mixup")
    assert [group.fields["mixup"] for group in table.groups] == [0.4] * 6 + [0.0] * 6
    for name in ("lr", "acc_tee"):
        with pytest.raises(UsageError, match=f"cannot sort by {name}"):
            tabulate(records, sort=name)


def test_a_baseline_is_otherwise_the_same(tmp_path):
    write_grid(tmp_path)
    table = table_of(tmp_path)
    baseline = parse_baseline("mixup=0", read_records(tmp_path))
    rows = long_rows([table], ["acc_te"], baseline=baseline)
    values = {
        (g.fields["arch"], g.fields["dataset"], g.fields["mixup"]): g.values("acc_te")
        for g in table.groups
    }
    for row in rows:
        key = row["arch"], row["dataset"]
        if row["mixup"] == 0:
            assert math.isnan(row["p"])
            continue
        test: Any = scipy.stats.ttest_ind(
            values[*key, 0.4], values[*key, 0.0], equal_var=False
        )
        assert row["p"] == pytest.approx(test.pvalue)
    text = pivot(table, ["acc_te"], baseline=baseline)
    assert text.columns[3] == "cifar10 against mixup=0"
    assert [row[3] for row in text.rows[::2]] == ["baseline"] * 3
    assert "t = " in text.rows[1][3]
    check_baseline([table], baseline)
    with pytest.raises(UsageError, match="no baseline lr"):
        check_baseline([table], {"lr": 0.1})
    with pytest.raises(UsageError, match=r"no row of the table has mixup=0\.3"):
        check_baseline([table], {"mixup": 0.3})


def test_sharpness_has_standard_errors(tmp_path):
    values, errors = [10.0, 20.0, 60.0], [1.0, 2.0, 2.0]
    for seed, (value, error) in enumerate(zip(values, errors, strict=True)):
        measures = {"tr_hess": value, "tr_hess_se": error, "examples": 50.0}
        write_run(tmp_path, TrainConfig(epochs=1, seed=seed), sharpness=measures)
    table = table_of(tmp_path)
    assert sharpness_columns([table]) == ["tr_hess"]
    (group,) = table.groups
    assert group.summary("tr_hess").mean == 30.0
    # That of a mean of independent numbers.
    assert group.standard_error("tr_hess") == pytest.approx(1.0)
    text = pivot(table, ["tr_hess"])
    assert text.rows[0][1] == "30 ± 26, se 1.0 (3)"
    with pytest.raises(UsageError, match=r"no run has a sharpness\.tsv"):
        sharpness_columns([])


def write_sharpness(run, *rows):
    for row in rows:
        append_wide(run.path / "sharpness.tsv", row)


def test_the_measurement_of_most_images_counts_then_the_last(tmp_path):
    run = write_run(tmp_path, TrainConfig(epochs=1))
    write_sharpness(
        run,
        {"examples": 100, "tr": 1.0, "tr_se": 0.1, "lmax": 8.0, "lmax_bound": 0.5},
        {"examples": 1000, "tr": 2.0, "tr_se": 0.2, "examples_te": 20, "tr_te": 7.0},
        {"examples": 1000, "tr": 3.0, "tr_se": math.nan},
        {"examples": 20, "tr": 4.0, "tr_se": 0.4, "examples_te": 50, "tr_te": 9.0},
        {"examples": 20, "tr": math.nan, "probes": 2, "sample_seed": 0},
        {"examples": 90, "few": 5.0, "few_examples": 64},
        {"examples": 70, "few": 6.0},
        {"examples": 99, "few": 7.0, "few_examples": 64},
    )
    (record,) = read_records(tmp_path)
    found = {name: x for name, x in record.values.items() if name not in COLUMNS}
    # Value, error and bound are of one row.
    assert math.isnan(found.pop("tr_se"))
    assert found.pop("tr_te_se", None) is None
    bounds = {"lmax": 8.0, "lmax_bound": 0.5}
    assert found == {"tr": 3.0, "tr_te": 9.0, "few": 6.0, **bounds}
    images = {name: basis.images for name, basis in record.bases.items()}
    assert images == {"tr": 1000, "lmax": 100, "tr_te": 50, "few": 70}


def test_the_last_row_of_the_sharpness_log_is_a_measurement_too(tmp_path):
    run = write_run(tmp_path, TrainConfig(epochs=2))
    for epoch in (1, 2):
        row = {"epoch": epoch, "step": epoch, "examples": 500, "tr": epoch, "ntk": 5.0}
        append_wide(run.path / "sharpness_log.tsv", row)
    (record,) = read_records(tmp_path)
    assert (record.values["tr"], record.bases["tr"].images) == (2.0, 500)
    write_sharpness(run, {"examples": 500, "tr": 3.0}, {"examples": 20, "ntk": 6.0})
    (record,) = read_records(tmp_path)
    assert (record.values["tr"], record.values["ntk"]) == (3.0, 5.0)
    # One that was measured before the end is not of the final network.
    write_run(tmp_path, TrainConfig(epochs=3), path=run.path)
    (run.path / "sharpness.tsv").unlink()
    (record,) = read_records(tmp_path)
    assert "tr" not in record.values


def test_a_table_says_how_many_images_and_what_is_unlike(tmp_path):
    for seed, (images, target) in enumerate(
        [(100, "split"), (20, "split"), (100, "population")]
    ):
        run = write_run(tmp_path, TrainConfig(epochs=1, seed=seed))
        row = {"examples": images, "target": target, "loss_name": "mse", "tr": 1.0}
        write_sharpness(run, row)
    write_sharpness(
        write_run(tmp_path, TrainConfig(arch="vgg", epochs=1)),
        {"examples": 100, "target": "split", "loss_name": "mse", "tr": 2.0},
    )
    table = table_of(tmp_path, seeds=[0])
    text = pivot(table, ["tr"])
    assert text.columns == ["arch", "cifar10", "images", "time per model"]
    assert [row[2] for row in text.rows] == ["20 to 100", "100"]
    (note,) = [note for note in text.notes if "unlike" in note]
    assert note == (
        "arch=resnet18, dataset=cifar10: means over unlike measurements, from 100 "
        "(seeds 0, 2), 20 (seed 1) images; target split (seeds 0-1), population "
        "(seed 2): tr."
    )
    assert "Measured with different target: population, split." in text.notes
    rows = long_rows([table], ["tr", "acc_te"])
    assert [row["images"] for row in rows] == [[20, 100], [], [100], []]
    assert rows[2]["conventions"] == ["loss_name=mse,target=split"]
    assert "images" not in pivot(table, ["acc_te"]).columns


def test_a_sharpness_file_without_numbers_is_a_line(tmp_path):
    run = write_run(tmp_path, TrainConfig(epochs=1))
    (run.path / "sharpness.tsv").write_text("garbage\n")
    said = []
    (record,) = read_records(tmp_path, warn=said.append)
    assert record.state == "done"
    (line,) = said
    assert line.startswith(f"cannot read {run.path / 'sharpness.tsv'}: ")


def test_a_measure_without_an_error_is_one_too(tmp_path):
    run = write_run(tmp_path, TrainConfig(epochs=1))
    lines = "examples\ttr\ttr_se\tlmax\tlmax_se\n", "5\t1.5\t0.1\t2.5\t\n"
    (run.path / "sharpness.tsv").write_text("".join(lines))
    assert sharpness_columns([table_of(tmp_path)]) == ["tr", "lmax"]


def test_delimited_text_keeps_every_digit(tmp_path):
    write_grid(tmp_path)
    rows = long_rows(tabulate(read_records(tmp_path)), ["acc_te"])
    path = tmp_path / "table.tsv"
    for delimiter in ("\t", ","):
        path.write_text(to_delimited(rows, delimiter))
        frame = pd.read_csv(path, sep=delimiter)
        assert frame["mean"].tolist() == [row["mean"] for row in rows]
        assert frame["done"].tolist() == ["0 1 2 3"] * 12


def test_markdown_and_latex_escape(tmp_path):
    write_run(tmp_path, TrainConfig(dataset="a|b_c%&$#{x}~^\\", epochs=1))
    text = pivot(table_of(tmp_path), ["acc_te"])
    markdown, latex = to_markdown(text), to_latex(text)
    assert "a\\|b_c" in markdown
    escaped = r"a|b\_c\%\&\$\#\{x\}\textasciitilde{}\textasciicircum{}"
    assert escaped + r"\textbackslash{}" in latex
    assert latex.count("{tabular}") == 2
    rows = [["wrn28-10", "-0.10 [-0.12, -0.09], t = -3", "-1.2e-05 (1)"]]
    latex = to_latex(TextTable("title", list("abc"), rows, ["seeds 0-3 missing"]))
    assert "wrn28-10 & $-$0.10 [$-$0.12, $-$0.09], t = $-$3 & $-$1.2e-05 (1)" in latex
    assert "seeds 0-3 missing" in latex


def test_large_and_small_numbers_keep_two_digits_of_their_spread(tmp_path):
    rng = random.Random(1)
    for seed in range(5):
        measures = {
            "large": 123456.0 + 500 * rng.random(),
            "huge": 3e11 + 1e9 * rng.random(),
            "small": 0.01234 + 1e-5 * rng.random(),
        }
        write_run(tmp_path, TrainConfig(epochs=1, seed=seed), sharpness=measures)
    rows = pivot(table_of(tmp_path), ["large", "huge", "small"]).rows
    assert [row[:2] for row in rows] == [
        ["resnet18", metric] for metric in ("large", "huge", "small")
    ]
    large, huge, small = (row[2].split(" (")[0].split(" ± ") for row in rows)
    assert [len(large[0]), len(large[1])] == [6, 3]
    assert "e+11" in huge[0]
    assert len(small[0].split(".")[1]) >= 6


def test_eight_stands_before_twenty(tmp_path):
    for arch in ("resnet20", "resnet8", "wrn28-10", "wrn28-2"):
        for dataset in ("cifar100", "cifar10"):
            write_run(tmp_path, TrainConfig(arch=arch, dataset=dataset, epochs=1))
    text = pivot(table_of(tmp_path), ["acc_te"])
    archs = ["resnet8", "resnet20", "wrn28-2", "wrn28-10"]
    assert [row[0] for row in text.rows] == archs
    assert text.columns[1:3] == ["cifar10", "cifar100"]
    table = table_of(tmp_path, sort="-arch")
    assert [g.fields["arch"] for g in table.groups][::2] == archs[::-1]

import math
import os
import socket
import subprocess
import sys

import pytest

from eqcifar.config import TrainConfig
from eqcifar.errors import RunError, UsageError
from eqcifar.recipes import recipe_options
from eqcifar.results import read_original, read_records, tabulate
from eqcifar.storage import _tsv, current_state, read_json, write_json

from .cli_tools import run_cli
from .results_tools import write_run, write_tsv


def read(root, **options):
    lines = []
    return read_records(root, warn=lines.append, **options), lines


def test_one_clear_line_for_each_bad_run_and_the_rest_tabulated(tmp_path):
    for index in range(20):
        for seed in range(4):
            config = TrainConfig(lr=0.001 * (index + 1), epochs=1, seed=seed)
            write_run(tmp_path, config, 0.9, path=tmp_path / f"{index}-{seed}")
    bad = [tmp_path / f"bad{number}" for number in range(8)]
    for path in bad:
        write_run(tmp_path, TrainConfig(arch="vgg", epochs=2), 0.9, path=path)

    def change_config(path, **changes):
        write_json(path / "config.json", read_json(path / "config.json") | changes)

    (bad[0] / "config.json").write_bytes(b'{"config": \x00')
    change_config(bad[1], format=2)
    change_config(bad[2], config={"arch": "vgg", "depth": 3, "seed": 1})
    change_config(bad[3], config={"arch": "vgg", "seed": "1"})
    log = bad[4] / "log.tsv"
    log.write_bytes(log.read_bytes()[:-7])
    (bad[5] / "log.tsv").unlink()
    (bad[6] / "status.json").write_text("[")
    (bad[7] / "log.tsv").write_text("epoch\tacc_te\n2\tmany\n")
    for seed, path in enumerate(bad[4:], start=4):
        config = TrainConfig(arch="vgg", epochs=2, seed=seed).to_dict()
        change_config(path, config=config)

    records, lines = read(tmp_path)
    (table,) = tabulate(records)
    good = [group for group in table.groups if group.fields["arch"] == "resnet18"]
    assert [len(group.done) for group in good] == [4] * 20
    (rest,) = [group for group in table.groups if group.fields["arch"] == "vgg"]
    assert rest.seeds("unreadable") == [4, 5, 6, 7]
    expected = [
        "config.json: it is not JSON",
        "config.json is of version 2; this eqcifar reads version 1",
        "unknown configuration key 'depth'",
        "seed = '1': must be a whole number",
        "log.tsv ends after epoch 1 of 2",
        "log.tsv: it has no whole row",
        "status.json: it is not JSON",
        "log.tsv: its last line is not a row",
    ]
    assert len(lines) == len(expected)
    for path, line, part in zip(bad, lines, expected, strict=True):
        assert part in line
        assert str(path) in line
        assert "\n" not in line


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    write_run(tmp_path, TrainConfig(epochs=1), path=tmp_path / "a")
    locked = tmp_path / "locked"
    locked.mkdir()
    scandir = os.scandir

    def refuse(path):
        # Root, whom containers run tests as, can read any folder.
        if os.fspath(path) == os.fspath(locked):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    records, lines = read(tmp_path)
    assert len(records) == 1
    assert lines == [f"left out {locked}: Permission denied"]


@pytest.mark.parametrize("tail", [1, 100, 400, 4096])
def test_the_last_row_is_found_from_the_end(tmp_path, monkeypatch, tail):
    monkeypatch.setattr(_tsv, "_TAIL", tail)
    config = TrainConfig(epochs=3)
    run = write_run(tmp_path, config)
    row = run.log()[-1]
    log = run.path / "log.tsv"
    for torn in (b"", b"4\t0.5", b"4\t0.5\t" + b"0" * 500):
        log.write_bytes(log.read_bytes() + torn)
        (record,), lines = read(tmp_path)
        assert not lines
        assert repr(dict(record.values)) == repr(
            {name: float(value) for name, value in row.items()}
        )


@pytest.mark.parametrize("wrong", ["27.5", "-3", "1_0", "inf"])
def test_a_wrong_accuracy_is_refused_wherever_it_is_read(tmp_path, wrong):
    run = write_run(tmp_path, TrainConfig(epochs=3, val_size=9))
    rows = [{"epoch": e, "acc_va": 0.5, "seconds": 1.0} for e in (1, 2, 3)]

    def put(epoch):
        write_tsv(run.path / "log.tsv", rows)
        lines = (run.path / "log.tsv").read_text().splitlines(keepends=True)
        lines[epoch] = lines[epoch].replace("0.5", wrong)
        (run.path / "log.tsv").write_text("".join(lines))

    put(3)
    for select in ("last", "val"):
        (record,), (line,) = read(tmp_path, select=select)
        assert record.state == "unreadable"
        assert "log.tsv: its last line is not a row of the log" in line
        assert ("must be between 0 and 1" in line) == (wrong != "1_0")
    for epoch in (1, 3):
        put(epoch)
        with pytest.raises(RunError, match=f"log.tsv: line {epoch + 1} is not a row"):
            run.log()
    put(1)
    (record,), (line,) = read(tmp_path, select="val")
    assert "log.tsv: line 2 is not a row of the log" in line


def test_the_time_of_training_is_the_sum_of_its_log(tmp_path):
    config = TrainConfig(epochs=3)
    run = write_run(tmp_path, config)
    (record,), _ = read(tmp_path)
    assert record.seconds == math.fsum(row["seconds"] for row in run.log())
    # What a finished run has summed need not be summed again.
    write_run(tmp_path, config, seconds=7.5)
    (record,), _ = read(tmp_path)
    assert record.seconds == 7.5


def test_a_copy_is_counted_once(tmp_path):
    config = TrainConfig(epochs=1, seed=3)
    write_run(tmp_path, config, 0.5, path=tmp_path / "a", state="failed")
    write_run(tmp_path, config, 0.9, path=tmp_path / "b")
    records, (line,) = read(tmp_path)
    assert [record.values["acc_te"] for record in records] == [0.9]
    assert line == f"left out {tmp_path / 'a'}: it is a copy of {tmp_path / 'b'}"


def test_a_run_whose_process_is_gone_is_interrupted():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    here = {"state": "running", "host": socket.gethostname()}
    assert current_state({**here, "pid": process.pid}) == "interrupted"
    assert current_state({**here, "pid": os.getpid()}) == "running"
    elsewhere = {"state": "running", "host": "elsewhere", "pid": process.pid}
    assert current_state(elsewhere) == "running"
    assert current_state({"state": "unknown"}) == "interrupted"
    assert current_state({"state": ["done"]}) == "unreadable"
    assert current_state({**here, "pid": None}) == "interrupted"


def write_original(root, name, epochs, **last):
    rows = [
        {"epoch": epoch, "acc": 0.9, "loss": 0.1, "wd": 50.0, "grad_norm": 0.25}
        | {"acc_tr": 0.99, "acc_te": 0.5}
        for epoch in range(10, epochs + 1, 10)
    ]
    rows[-1] |= last
    (root / name).mkdir(parents=True)
    write_tsv(root / name / "log.tsv", rows)


def test_folders_of_the_original_are_read(tmp_path):
    root = tmp_path / "res_cifar" / "cifar100"
    for seed in range(4):
        accuracy = round(0.78 + 0.001 * seed, 4)
        write_original(root, f"wrn_0.4_0.8_1000_{seed}", 200, acc_te=accuracy)
        measures = {"acc_tr": 0.99, "acc_te": accuracy, "tr_hess_dataset": 10.0 + seed}
        write_tsv(root / f"wrn_0.4_0.8_1000_{seed}" / "sharpness.tsv", [measures])
    write_original(root, "wrn_0.4_0.8_1000_4", 120)
    (root / "merged_log").mkdir()
    (root / "merged_log" / "log.tsv").write_text("train_setting\nx\n")
    lines = []
    records = read_original(tmp_path, warn=lines.append)
    assert len(lines) == 1
    assert "not named <model>_<mixup>_<lr>" in lines[0]
    (table,) = tabulate(records)
    (group,) = table.groups
    assert group.fields == {"arch": "original-wrn28-10", "dataset": "cifar100"}
    assert table.common == {
        "init": "lecun",
        "mixup": 0.4,
        "mixup_group": 125,
        "bn_group": 125,
    }
    assert (group.seeds("done"), group.seeds("interrupted")) == ([0, 1, 2, 3], [4])
    # By its README, on 8 GPUs.
    recipe = {**recipe_options("original"), "arch": "original-wrn28-10"}
    expected = TrainConfig(**recipe, dataset="cifar100", mixup=0.4)
    assert {record.recipe for record in records} == {expected}
    # As numpy.mean and numpy.std of the original's script give it.
    summary = group.summary("acc_te", ddof=0)
    assert summary.mean == pytest.approx(0.7815)
    assert summary.std == pytest.approx(math.sqrt(1.25) * 1e-3)
    # Half a squared norm, and a squared norm.
    assert group.values("weight_norm") == [10.0] * 4
    assert group.values("gradient_norm") == [0.5] * 4
    assert group.values("tr_hess_dataset") == [10.0, 11.0, 12.0, 13.0]
    result = run_cli("tabulate", tmp_path, "--layout", "original", "--ddof", "0")
    assert "0.7815 ± 0.0011 (4 of 5)" in result.stdout
    result = run_cli("tabulate", tmp_path, "--layout", "original", "--sharpness")
    assert "tr_hess_dataset" in result.stdout


def test_no_folder_and_no_run(tmp_path):
    for reader in (read_records, read_original):
        with pytest.raises(UsageError, match="nothing was trained there"):
            reader(tmp_path / "none")
        assert reader(tmp_path) == []

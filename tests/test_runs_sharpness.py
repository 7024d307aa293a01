import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqcifar import measurements, sharpness, storage, training
from eqcifar.errors import RunError, UsageError
from eqcifar.measurements import CompareOptions, SharpnessOptions
from eqcifar.measurements._work import Work
from eqcifar.parallel import make_mesh
from eqcifar.sharpness import Estimate, Measured
from eqcifar.storage._growing_table import append_wide, keep_rows, read_wide

from .helpers import small_dataset, small_net

CONFIG = training.TrainConfig(epochs=3, batch_size=20, loss="ce")
OPTIONS = SharpnessOptions(samples=10, batch_size=4)


@pytest.fixture(scope="module")
def start():
    """The data and a network that has not been trained."""
    dataset = small_dataset(20)
    return dataset, training.initialise(*small_net(), CONFIG, 20)


@pytest.fixture
def subject(start, tmp_path):
    dataset, train_state = start
    return measurements.MeasuredNetwork(
        path=tmp_path,
        table=tmp_path / "sharpness.tsv",
        model=train_state.model,
        state=train_state.state,
        config=CONFIG,
        dataset=dataclasses.replace(dataset, synthetic=True),
        step=3,
        digest="0",
        same_data=True,
    )


class Stop(Exception):
    pass


def measure(subject, report=lambda *_: None, names=("trace", "ntk"), **more):
    return measurements.measure_network(
        subject, names, ["train"], OPTIONS, devices=1, report=report, **more
    )


def without_time(found):
    return {
        (split, name): (
            {k: dataclasses.replace(v, seconds=0.0) for k, v in m.values.items()},
            m.bounds,
            m.tables,
        )
        for split, measures in found.items()
        for name, m in measures.items()
    }


@pytest.mark.parametrize("where", [("trace", 8), ("ntk", 4)])
def test_interrupted_and_resumed_gives_the_same_bits(subject, where):
    whole = measure(subject)
    measurements.append_measures(subject, OPTIONS, whole, devices=1)
    hidden = f".{subject.table.name}-*"
    assert not list(subject.table.parent.glob(hidden))

    def stop(split, name, done, total, sofar):
        if (name, done) == where:
            raise Stop

    with pytest.raises(Stop):
        measure(subject, stop)
    assert list(subject.table.parent.glob(hidden))
    seen = []
    resumed = measure(subject, lambda *a: seen.append(a[1]))
    if where[0] == "ntk":
        assert set(seen) == {"ntk"}
    assert without_time(resumed) == without_time(whole)
    measurements.append_measures(subject, OPTIONS, resumed, devices=1)
    first, second = read_wide(subject.table)
    del first["time"], second["time"]
    assert first == second
    assert not list(subject.table.parent.glob(hidden))


@pytest.mark.parametrize(
    "change",
    ["data", "network", "options", "XLA_FLAGS", "jax_default_matmul_precision"],
)
def test_only_an_equal_measurement_goes_on(subject, change, monkeypatch):
    options = OPTIONS
    before = Work(subject, options, "measures", devices=1).unfinished
    before.finish("train-ntk", Measured({}, {}, {}))
    same = Work(subject, options, "measures", devices=1).unfinished
    assert "train-ntk" in same.finished
    if change == "data":
        labels = (subject.dataset.train.labels + 1) % 4
        part = dataclasses.replace(subject.dataset.train, labels=labels)
        dataset = dataclasses.replace(subject.dataset, train=part)
        subject = dataclasses.replace(subject, dataset=dataset)
    elif change == "network":
        subject = dataclasses.replace(subject, digest="1")
    elif change == "options":
        options = dataclasses.replace(options, probes=3)
    elif change == "XLA_FLAGS":
        monkeypatch.setenv(change, "--xla_other")
    precision = "highest" if change == "jax_default_matmul_precision" else None
    with jax.default_matmul_precision(precision):
        other = Work(subject, options, "measures", devices=1).unfinished
    assert other.finished == {}


@pytest.mark.parametrize(
    ("name", "where"),
    [
        *(("lmax", 4), ("lmax", 18), ("radius", 3), ("radius", 12), ("spectrum", 130)),
        *(("landscape", 5), ("eigenvalues", 50), ("eigenline", 29), ("hutch++", 15)),
        ("eigenline", 45),
    ],
)
def test_every_measure_goes_on_with_the_same_bits(subject, name, where, monkeypatch):
    from eqcifar.measurements import _unfinished

    monkeypatch.setattr(_unfinished, "_EVERY_SECONDS", 0.0)

    def run(at=None):
        seen = []

        def report(split, name, done, total, sofar):
            seen.append(done)
            if done == at:
                raise Stop

        options = dataclasses.replace(OPTIONS, loss="mse")
        found = measurements.measure_network(
            subject, [name], ["train"], options, devices=1, report=report
        )
        return without_time(found), seen

    with pytest.raises(Stop):
        run(where)
    resumed, after = run()
    for path in subject.table.parent.glob(".*"):
        path.unlink()
    whole, steps = run()
    # As text, in which a nan equals a nan.
    assert repr(resumed) == repr(whole)
    assert len(after) < len(steps) or name in ("radius", "landscape")
    assert steps == sorted(steps)


def test_a_comparison_goes_on_with_the_same_bits(subject):
    def run(at=None):
        def report(what, loss, done, total, sofar):
            if (what, done) == at:
                raise Stop

        return measurements.compare_splits(
            subject,
            CompareOptions(samples=10, batch_size=4, probes=3, eigenvectors=2),
            devices=1,
            report=report,
            append=False,
        )

    for at in (("trace, test", 4), ("spectra", 2), ("spectra", 23)):
        with pytest.raises(Stop):
            run(at)
    assert list(subject.table.parent.glob(".*compare-half0.*.npz"))
    resumed = run()
    assert not list(subject.table.parent.glob(".*.npz"))
    whole = run()
    assert resumed.common.overlap == whole.common.overlap
    for matrix, pairs in whole.common.cosine.items():
        for pair, estimate in pairs.items():
            again = resumed.common.cosine[matrix][pair]
            assert dataclasses.replace(again, seconds=estimate.seconds) == estimate
    assert resumed.ratio.interval() == whole.ratio.interval()


def test_devices_do_not_change_the_values(subject):
    one = measure(subject)["train"]["trace"].values
    several = measurements.measure_network(
        subject, ["trace"], ["train"], OPTIONS, devices=2
    )["train"]["trace"].values
    for name, estimate in several.items():
        assert estimate.value == pytest.approx(one[name].value, rel=1e-5)


def test_the_row_has_full_precision_and_says_what_it_is(subject):
    found = measure(subject)
    row = measurements.sharpness_row(subject, OPTIONS, {"test": found["train"]})
    assert row["data"] == "SYNTHETIC"
    assert row["examples_te"] == 10
    estimate = found["train"]["trace"].values["tr_hess"]
    assert row["tr_hess_te"] == estimate.value
    assert row["tr_hess_te_se"] == estimate.standard_error
    append_wide(subject.table, row)
    assert float(read_wide(subject.table)[0]["tr_hess_te"]) == estimate.value


def test_a_measure_of_fewer_images_says_how_many(subject):
    found = {
        "trace": Measured({"tr_hess": Estimate(1.0, examples=90)}),
        "gram": Measured({"lmax_ntk": Estimate(2.0, examples=64)}),
    }
    row = measurements.sharpness_row(subject, OPTIONS, {"test": found})
    assert (row["examples_te"], row["lmax_ntk_te_examples"]) == (90, 64)
    assert "tr_hess_te_examples" not in row


def test_another_loss_or_mode_is_another_column(subject):
    for options, name, column in (
        (OPTIONS, "tr_hess", "tr_hess_te"),
        (dataclasses.replace(OPTIONS, loss="mse"), "tr_hess", "tr_hess_mse_te"),
        (dataclasses.replace(OPTIONS, loss="mse"), "tr_ntk", "tr_ntk_te"),
        (
            dataclasses.replace(OPTIONS, batch_statistics=True),
            "tr_hess",
            "tr_hess_trainmode_te",
        ),
    ):
        assert measurements.column_name(subject, options, name, "test") == column


def test_the_loss_that_was_trained_is_measured(subject):
    config = dataclasses.replace(CONFIG, label_smoothing=0.2)
    smoothed = dataclasses.replace(subject, config=config)
    one_hot = dataclasses.replace(OPTIONS, one_hot=True, samples=0)
    trained = dataclasses.replace(OPTIONS, samples=0)
    network, part = smoothed.network(OPTIONS), subject.dataset.train
    logits = training.predict(subject.model, subject.state, part.images, config)
    for options, smoothing, end in ((trained, 0.2, ""), (one_hot, 0.0, "_onehot")):
        # By way of the arrays: the middle of the landscape is the loss itself.
        examples = smoothed.examples("train", options, make_mesh(1))
        loss = smoothed.loss(options)
        direction = sharpness.filter_normalised(network, jax.random.key(0))
        found = sharpness.landscape(network, examples, [direction], loss, points=3)
        expected = training.evaluate(
            logits, part.labels, "ce", label_smoothing=smoothing
        )
        assert found.loss[1] == pytest.approx(expected.loss.value, rel=1e-5)
        name = measurements.column_name(smoothed, options, "tr_hess", "test")
        assert name == f"tr_hess{end}_te"
        assert (
            measurements.column_name(smoothed, options, "tr_ntk", "train") == "tr_ntk"
        )
        row = measurements.first_columns(smoothed, options)
        assert (row["loss_name"], row["loss_smoothing"]) == ("ce", smoothing)
    # Where nothing was smoothed, the two are one.
    assert measurements.column_name(subject, one_hot, "tr_hess", "train") == "tr_hess"
    assert str(smoothed.loss(trained)) == "ce loss, labels smoothed by 0.2"
    assert str(smoothed.loss(one_hot)) == "ce loss"


def test_impossible_options_are_refused(subject):
    with pytest.raises(UsageError, match="one image tells nothing"):
        SharpnessOptions(samples=1)
    with pytest.raises(UsageError, match="probes = -1: must be at least 0"):
        SharpnessOptions(probes=-1)
    with pytest.raises(UsageError, match="rtol = 0.0: must be above 0"):
        SharpnessOptions(rtol=0.0)
    many = SharpnessOptions(samples=10, probes=10**9)
    with pytest.raises(UsageError, match="more than the 1 GB allowed"):
        measurements.measure_network(subject, ["trace"], ["train"], many, devices=1)
    with pytest.raises(UsageError, match="no val split: there are train, test"):
        measurements.measure_network(subject, ["trace"], ["val"], OPTIONS, devices=1)


def test_a_network_with_dropout_has_no_training_mode(subject):
    config = dataclasses.replace(CONFIG, dropout=0.3)
    with pytest.raises(UsageError, match="random"):
        dataclasses.replace(subject, config=config).network(
            SharpnessOptions(batch_statistics=True)
        )


def test_a_folder_that_cannot_be_written_is_a_warning(subject, monkeypatch):
    from eqcifar.measurements import _unfinished

    def fail(*_):
        raise PermissionError(13, "Permission denied")

    warnings = []
    with monkeypatch.context() as broken:
        broken.setattr(_unfinished, "write_json", fail)
        found = measure(subject, names=["ntk"], warn=warnings.append)
    assert len(warnings) == 1
    # Measured alone, as before: with the trace it would be another program.
    again = measure(subject, names=["ntk"])
    expected = again["train"]["ntk"].values["tr_ntk"].value
    assert found["train"]["ntk"].values["tr_ntk"].value == expected > 0


def test_wide_tables_grow_to_the_right(tmp_path):
    path = tmp_path / "table.tsv"
    append_wide(path, {"a": 1, "b": 0.1 + 0.2})
    append_wide(path, {"b": math.nan, "c": "two\twords"})
    lines = [line.split("\t") for line in path.read_text().splitlines()]
    assert [line[:-1] for line in lines] == [
        ["a", "b", "c"],
        ["1", "0.30000000000000004", ""],
        ["", "", "two words"],
    ]
    assert [line[-1][:3] for line in lines] == ["che", "crc", "crc"]
    path.write_bytes(path.read_bytes() + b"7\t8")
    append_wide(path, {"a": 2})
    assert [row["a"] for row in read_wide(path)] == ["1", "", "2"]
    keep_rows(path, lambda row: row["a"] == "2")
    assert read_wide(path) == [{"a": "2", "b": "", "c": ""}]
    path.write_text(path.read_text().replace("2\t", "3\t"))
    with pytest.raises(RunError, match="line 2 was changed since it was written"):
        read_wide(path)
    path.write_text("a\n1\t2\n")
    with pytest.raises(RunError, match="line 2 has 2 cells for 1 columns"):
        append_wide(path, {"a": 2})


def test_the_log_follows_training_and_resuming(start, subject, tmp_path):
    dataset, train_state = start
    options = SharpnessOptions(samples=4, target="population")
    log = measurements.SharpnessLog(CONFIG, 2, ["ntk"], options)
    run, path = storage.Run(tmp_path), tmp_path / "sharpness_log.tsv"
    log.on_start(run, dataset, train_state)
    for epoch in (1, 2, 3):
        step = jnp.asarray(epoch, jnp.int32)
        after = dataclasses.replace(train_state, step=step)
        log.on_epoch(after, {"epoch": epoch})
    assert [row["epoch"] for row in read_wide(path)] == ["2", "3"]
    before = read_wide(path)

    # A run that goes on after epoch 2, whose measurement a kill prevented.
    keep_rows(path, lambda row: row["epoch"] != "2")
    after_two = dataclasses.replace(train_state, step=jnp.asarray(2, jnp.int32))
    log.on_start(run, dataset, after_two)
    (row,) = read_wide(path)
    assert row["epoch"] == "2"
    assert row["tr_ntk"] == before[0]["tr_ntk"]
    assert np.isfinite(float(row["tr_ntk_se"]))
    # As it is measured otherwise, with the same options.
    found = measurements.measure_network(
        subject, ["ntk"], ["train"], options, devices=1
    )
    estimate = found["train"]["ntk"].values["tr_ntk"]
    assert float(row["tr_ntk_se"]) == estimate.standard_error


def test_a_measurement_that_is_stopped_is_caught_up_with(start, tmp_path):
    dataset, train_state = start
    after_two = dataclasses.replace(train_state, step=jnp.asarray(2, jnp.int32))
    reports, stop, warnings = [], [True], []
    log = measurements.SharpnessLog(
        CONFIG,
        2,
        ["ntk"],
        SharpnessOptions(samples=4),
        warn=warnings.append,
        report=lambda *work: reports.append(work),
        should_stop=lambda: stop[0],
    )
    run, path = storage.Run(tmp_path), tmp_path / "sharpness_log.tsv"
    log.on_start(run, dataset, train_state)
    log.on_epoch(after_two, {"epoch": 2})
    assert not path.exists()
    stop[0] = False
    log.on_start(run, dataset, after_two)
    assert [row["epoch"] for row in read_wide(path)] == ["2"]
    assert reports[-1] == (2, "ntk", 4, 4)
    assert not warnings


def test_a_measurement_that_fails_does_not_end_training(start, tmp_path):
    dataset, train_state = start
    warnings = []
    options = SharpnessOptions(samples=4, memory=1e-9)
    log = measurements.SharpnessLog(CONFIG, 1, ["ntk"], options, warn=warnings.append)
    log.on_start(storage.Run(tmp_path), dataset, train_state)
    log.on_epoch(train_state, {"epoch": 1})
    assert len(warnings) == 1
    assert "sharpness after epoch 1 was not measured" in warnings[0]

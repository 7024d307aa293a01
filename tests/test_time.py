"""When training stops, where it starts, what it keeps and what it averages."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from eqcifar import measurements, results, runs, storage
from eqcifar.config import SharpnessOptions, TrainConfig
from eqcifar.errors import UsageError
from eqcifar.parallel import make_mesh
from eqcifar.runs import Hooks, named_arrays, train_run, train_run_with
from eqcifar.storage import Run
from eqcifar.storage._growing_table import read_wide
from eqcifar.training import evaluate, fit, initialise, predict
from eqcifar.training._step import epoch_order

from .cli_tools import TINY, run_cli
from .helpers import small_dataset, small_net

CONFIG = TrainConfig(
    epochs=5, batch_size=16, lr=0.2, schedule="constant", loss="ce", eval_every=2
)
TIMES = "seconds", "images_per_s"


def train(path, *, keep_every=0, **values):
    hooks = values.pop("hooks", Hooks())
    return train_run_with(
        path,
        small_dataset(),
        *small_net(),
        dataclasses.replace(CONFIG, **values),
        mesh=make_mesh(1),
        keep_every=keep_every,
        hooks=hooks,
    )


def arrays(path, prefix=""):
    found = load_file(path)
    return {
        name.removeprefix(prefix): x
        for name, x in found.items()
        if name.startswith(prefix)
    }


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def rows_of(run):
    rows = [{k: x for k, x in row.items() if k not in TIMES} for row in run.log()]
    return repr(rows)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A run without any of the options, that keeps each epoch's network."""
    return train(tmp_path_factory.mktemp("run") / "run", keep_every=1)


def stop_after(calls):
    asked = iter(range(calls))
    return lambda: next(asked, None) is None


def test_what_is_kept_is_each_epochs_network(tmp_path, plain):
    found = {}

    def keep(state, row):
        found[row["epoch"]] = named_arrays(state.model, state.state)

    same = train(tmp_path / "run", hooks=Hooks(on_epoch=keep))
    assert_equal(
        arrays(same.path / "model.safetensors"),
        arrays(plain.path / "model.safetensors"),
    )
    start, *kept = plain.checkpoints()
    assert start == plain.checkpoint(0)
    assert_equal(arrays(start), named_arrays(*small_net()))
    for epoch, file in enumerate(kept, 1):
        assert file == plain.checkpoint(epoch)
        assert_equal(arrays(file), found[epoch])
        loaded = runs.load_model(file, like=small_net(1))
        assert loaded.header["step"] == 4 * epoch
    few = train(tmp_path / "few", keep_every=3)
    assert few.checkpoints() == [few.checkpoint(epoch) for epoch in (0, 3, 5)]
    assert few.checkpoint(12345).name == "epoch12345.safetensors"


def test_kept_networks_survive_an_interruption(tmp_path, plain):
    path = tmp_path / "run"
    train(path, keep_every=1, hooks=Hooks(should_stop=stop_after(6)))
    # As after a kill: kept ahead of the checkpoint.
    Run(path).checkpoint(4).write_bytes(b"of another time")
    resumed = train(path, keep_every=1, hooks=Hooks(should_stop=stop_after(3)))
    assert not resumed.checkpoint(4).exists()
    again = train(path, keep_every=1)
    for file, other in zip(again.checkpoints(), plain.checkpoints(), strict=True):
        assert file.read_bytes() == other.read_bytes()


@pytest.fixture(scope="module")
def limit(plain):
    """A loss that epoch 3 is the first to reach."""
    losses = [row["loss"] for row in plain.log()]
    assert losses[2] < min(losses[:2])
    return losses[2]


def test_training_stops_at_a_loss_and_is_done(tmp_path, plain, limit):
    run = train(tmp_path / "run", until_loss=limit)
    status = run.status()
    assert (status["state"], status["epoch"]) == ("done", 3)
    assert run.is_done()
    assert_equal(arrays(run.path / "model.safetensors"), arrays(plain.checkpoint(3)))
    # Measured where it ends, whatever eval_every.
    ended = run.log()[-1]
    loaded = runs.load_model(run, like=small_net(1))
    test = small_dataset().test
    logits = predict(loaded.model, loaded.state, test.images, CONFIG, mesh=make_mesh(1))
    assert ended["acc_te"] == evaluate(logits, test.labels, "ce").accuracy.value
    (record,) = results.read_records(tmp_path)
    assert (record.state, record.values["epoch"]) == ("done", 3)
    # Never reached, it changes nothing.
    other = train(tmp_path / "other", until_loss=1e-9)
    assert_equal(
        arrays(other.path / "model.safetensors"),
        arrays(plain.path / "model.safetensors"),
    )
    assert rows_of(other) == rows_of(plain)


@pytest.mark.parametrize("calls", [4, 7, 12])
def test_stopped_anywhere_it_ends_at_the_same_epoch(tmp_path, limit, calls):
    whole = train(tmp_path / "whole", until_loss=limit)
    stopped = train(
        tmp_path / "run", until_loss=limit, hooks=Hooks(should_stop=stop_after(calls))
    )
    assert stopped.status()["state"] == "interrupted"
    again = train(tmp_path / "run", until_loss=limit)
    for name in ("model.safetensors", "last.safetensors"):
        assert (again.path / name).read_bytes() == (whole.path / name).read_bytes()
    assert rows_of(again) == rows_of(whole)
    # Killed between the last checkpoint and the model.
    (again.path / "model.safetensors").unlink()
    train(tmp_path / "run", until_loss=limit)
    for name in ("model.safetensors", "last.safetensors"):
        assert (again.path / name).read_bytes() == (whole.path / name).read_bytes()


def test_the_average_is_the_mean_of_the_epochs_weights(tmp_path, plain):
    run = train(tmp_path / "run", swa_from=3, keep_every=1)
    # The steps are those without it.
    raw = arrays(run.path / "last.safetensors", "raw.")
    assert_equal(raw, arrays(plain.path / "model.safetensors"))
    weights = [arrays(plain.checkpoint(epoch)) for epoch in range(6)]
    for epoch in (1, 2):
        assert_equal(arrays(run.checkpoint(epoch)), weights[epoch])
    for epoch in (3, 4, 5):
        found = arrays(run.checkpoint(epoch))
        for name in found:
            if "running" not in name:
                mean = np.mean([each[name] for each in weights[3 : epoch + 1]], axis=0)
                np.testing.assert_allclose(found[name], mean, rtol=2e-6, atol=1e-8)
    # Its statistics by NumPy, over the batches of the last epoch.
    found = arrays(run.path / "model.safetensors")
    order = np.asarray(epoch_order(jax.random.key(0), 4, 64)).reshape(4, 16)
    x = (small_dataset().train.images.transpose(0, 3, 1, 2) / 255 - 0.5) / 0.25
    x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))
    y = np.einsum("nchwij,ocij->nohw", windows, found["conv.weight"].astype(float))
    batches = [y[batch] for batch in order]
    mean = np.mean([batch.mean((0, 2, 3)) for batch in batches], axis=0)
    var = np.mean([batch.var((0, 2, 3)) for batch in batches], axis=0)
    np.testing.assert_allclose(found["norm.running_mean"], mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["norm.running_var"], var, rtol=1e-4)
    # What is logged is of the average.
    loaded = runs.load_model(run, like=small_net(1))
    test = small_dataset().test
    logits = predict(loaded.model, loaded.state, test.images, CONFIG, mesh=make_mesh(1))
    measured = evaluate(logits, test.labels, "ce")
    assert run.log()[-1]["loss_te"] == pytest.approx(measured.loss.value, rel=1e-6)


def test_an_average_goes_on_with_the_same_digits(tmp_path):
    whole = train(tmp_path / "whole", swa_from=2, epochs=4)
    for calls in (5, 6):
        train(
            tmp_path / "run",
            swa_from=2,
            epochs=4,
            hooks=Hooks(should_stop=stop_after(calls)),
        )
    again = train(tmp_path / "run", swa_from=2, epochs=4)
    for name in ("model.safetensors", "last.safetensors"):
        assert (again.path / name).read_bytes() == (whole.path / name).read_bytes()


@pytest.mark.usefixtures("x64")
def test_new_statistics_are_the_same_on_any_devices():
    config = TrainConfig(batch_size=16, epochs=2, lr=0.1, swa_from=1, bn_group=8)

    def trained(devices):
        start = initialise(*small_net(dropout=0.5), config, 64)
        end, _ = fit(start, small_dataset(), config, mesh=make_mesh(devices))
        return named_arrays(end.model, end.state)

    one, eight = trained(1), trained(8)
    for name in one:
        a, b = (np.asarray(each[name]) for each in (one, eight))
        np.testing.assert_allclose(a, b, rtol=1e-9)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"until_loss": -1.0}, "until_loss = -1.0: must be at least 0"),
        ({"swa_from": 9, "epochs": 5}, "swa_from = 9: must be at most the epochs, 5"),
        ({"swa_from": 2, "ema": 0.9}, "one average of the weights is evaluated"),
    ],
)
def test_bad_values_are_refused_by_name(values, message):
    with pytest.raises(UsageError, match=message):
        TrainConfig.from_dict(values)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A run of the command line that kept its networks."""
    out = tmp_path_factory.mktemp("results")
    result = run_cli(*TINY, "--epochs", 2, "--keep-every", 1, "--out", out)
    assert result.exit_code == 0, result.stderr
    return storage.latest_run(out)


def test_every_command_takes_a_kept_network(kept, tmp_path):
    file, row = kept.checkpoint(1), kept.log()[0]
    result = run_cli("eval", file, "--json")
    assert json.loads(result.stdout)["accuracy"]["value"] == row["acc_te"]
    result = run_cli("export", file, "--out", tmp_path / "export")
    assert result.exit_code == 0, result.stderr
    exported = arrays(tmp_path / "export" / "model.safetensors")
    assert_equal(exported, arrays(file))
    quick = "--samples", 4, "--batch-size", 4, "--devices", 1
    result = run_cli("sharpness", file, "--measures", "ntk", *quick, "--json")
    assert result.exit_code == 0, result.stderr
    alone = json.loads(result.stdout)["splits"]["train"]["values"]["tr_ntk"]["value"]

    command = "sharpness", kept.path, "--checkpoints", "--measures", "ntk", *quick
    result = run_cli(*command, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert [each["epoch"] for each in found] == [0, 1, 2]
    assert found[1]["splits"]["train"]["values"]["tr_ntk"]["value"] == alone
    log = kept.path / "sharpness_log.tsv"
    by_epoch = storage.read_sharpness_log(log)
    assert by_epoch[1]["tr_ntk"] == alone
    result = run_cli(*command)
    assert "along training, train of SYNTHETIC" in result.stdout
    assert [row["epoch"] for row in read_wide(log)] == ["0", "1", "2"]
    assert not list(kept.path.glob(".sharpness_log.tsv-*"))


def test_measures_along_training_go_on(kept):
    class Stop(Exception):
        pass

    options = SharpnessOptions(samples=4, batch_size=4, seed=3)
    log, calls = kept.path / "sharpness_log.tsv", []

    def stopping(epoch):
        def report(*_):
            calls.append(epoch)
            if epoch == 1:
                raise Stop

        return report

    def measure(report):
        measurements.measure_checkpoints(
            kept.path, ["ntk"], ["train"], options, devices=1, report=report
        )
        return [row for row in read_wide(log) if row["sample_seed"] == "3"]

    with pytest.raises(Stop):
        measure(stopping)
    calls.clear()

    def counting(epoch):
        return lambda *_: calls.append(epoch)

    rows = measure(counting)
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert 0 not in calls
    assert calls[-1] == 2


def test_a_run_without_kept_networks_is_told_so(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    result = run_cli("sharpness", tmp_path, "--checkpoints", "--measures", "ntk")
    assert result.exit_code == 2
    assert "has no networks along its training: train it with" in result.stderr
    result = run_cli("sharpness", tmp_path, "--checkpoints", "--layers")
    assert "--checkpoints prints what was measured" in result.stderr


def test_training_starts_from_a_run_or_a_file(kept, tmp_path):
    config = TrainConfig.from_dict(kept.config())
    begun = []

    def on_start(run, dataset, state):
        begun.append(named_arrays(state.model, state.state))

    ends = kept.path / "model.safetensors", kept.path, kept.checkpoint(1)
    for number, init in enumerate(ends):
        warm = dataclasses.replace(config, init=str(init), seed=5, epochs=1)
        train_run(
            warm, tmp_path / str(number), devices=1, hooks=Hooks(on_start=on_start)
        )
    assert_equal(begun[0], arrays(ends[0]))
    assert_equal(begun[1], arrays(ends[0]))
    assert_equal(begun[2], arrays(ends[2]))


def test_a_start_that_has_changed_is_noticed(kept, tmp_path):
    file = tmp_path / "start.safetensors"
    file.write_bytes(kept.checkpoint(0).read_bytes())
    config = TrainConfig.from_dict(kept.config())
    warm = dataclasses.replace(config, init=str(file), epochs=1)
    hooks = Hooks(should_stop=stop_after(1))
    stopped = train_run(warm, tmp_path / "runs", devices=1, hooks=hooks)
    assert stopped.status()["state"] == "interrupted"
    assert len(stopped.description()["init"]["sha256"]) == 64
    file.write_bytes(kept.checkpoint(1).read_bytes())
    with pytest.raises(UsageError, match="began from other weights than"):
        train_run(warm, tmp_path / "runs", devices=1)
    file.write_bytes(kept.checkpoint(0).read_bytes())
    assert train_run(warm, tmp_path / "runs", devices=1).is_done()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--init", "helium"),
            "must be he or lecun, or a run or model file, and there",
        ),
        (("--init", "RUN", "--width", 0.5), "init = "),
        (("--init", "RUN", "--dataset", "synthetic100"), "init = "),
    ],
)
def test_a_start_that_does_not_fit_is_refused(kept, tmp_path, options, message):
    words = [kept.path if word == "RUN" else word for word in options]
    result = run_cli(*TINY, "--epochs", 1, *words, "--out", tmp_path)
    assert result.exit_code == 2, result.stdout
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())

import dataclasses
import json
import math
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import optax
import pytest
from PIL import Image

from eqcifar import (
    data,
    exchange,
    measurements,
    models,
    parallel,
    results,
    runs,
    storage,
)
from eqcifar.config import TrainConfig
from eqcifar.errors import RunError, UsageError
from eqcifar.losses import squared_error
from eqcifar.parallel import make_mesh
from eqcifar.runs import Hooks, _train, train_run, train_run_with
from eqcifar.runs._lock import RunLock
from eqcifar.storage import Run
from eqcifar.storage._growing_table import append_wide, read_wide
from eqcifar.training import Diverged, evaluate, predict

from .cli_tools import run_cli
from .helpers import SmallNet, random_network, small_dataset, small_net

CONFIG = TrainConfig(epochs=4, batch_size=16, lr=0.5, mixup=0.4, eval_every=2)
STEPS = 4 * 4
TIMES = "seconds", "images_per_s"


def train(path, config=CONFIG, dataset=None, grad_accum=1, **hooks):
    dataset = small_dataset() if dataset is None else dataset
    return train_run_with(
        path,
        dataset,
        *small_net(dropout=0.1),
        config,
        mesh=make_mesh(1),
        grad_accum=grad_accum,
        hooks=Hooks(**hooks),
    )


def content(run):
    """All that an interruption may not change."""
    rows = [
        {name: value for name, value in row.items() if name not in TIMES}
        for row in run.log()
    ]
    names = "last.safetensors", "model.safetensors"
    # As text, in which nan is nan.
    return repr(rows), [(run.path / name).read_bytes() for name in names]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return train(tmp_path_factory.mktemp("run") / "seed0")


def stop_after(calls):
    """A `should_stop` that says so after n steps."""
    asked = 0

    def should_stop():
        nonlocal asked
        asked += 1
        return asked > calls

    return should_stop


def test_what_a_run_leaves(uninterrupted):
    names = {path.name for path in uninterrupted.path.iterdir()}
    assert names == {
        ".lock",
        "config.json",
        "env.json",
        "last.safetensors",
        "log.tsv",
        "model.safetensors",
        "status.json",
    }
    names = {"arch": "tests.helpers.SmallNet", "dataset": "small"}
    assert uninterrupted.config() == {**CONFIG.to_dict(), **names}
    description = uninterrupted.description()
    assert description["in_python"]
    assert description["model"]["class"] == names["arch"]
    assert ["linear.bias", "float32", [4]] in description["model"]["arrays"]
    assert description["data"]["name"] == "small"
    status = uninterrupted.status()
    assert (status["state"], status["epoch"], status["pid"]) == ("done", 4, os.getpid())
    assert status["synthetic"] is False
    rows = uninterrupted.log()
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert all(type(row["epoch"]) is int for row in rows)
    assert math.isnan(rows[0]["acc_te"])
    assert not math.isnan(rows[1]["acc_te"])
    assert math.isnan(rows[1]["acc_va"])
    assert status["seconds"] == math.fsum(row["seconds"] for row in rows)
    assert uninterrupted.environment()["versions"]["jax"] == jax.__version__


def test_the_model_of_a_run_is_the_one_that_was_logged(uninterrupted):
    loaded = runs.load_model(uninterrupted, like=small_net(5, dropout=0.1))
    test = small_dataset().test
    logits = predict(loaded.model, loaded.state, test.images, CONFIG, mesh=make_mesh(1))
    evaluation = evaluate(logits, test.labels, "mse")
    assert evaluation.accuracy.value == uninterrupted.log()[-1]["acc_te"]
    assert evaluation.loss.value == pytest.approx(uninterrupted.log()[-1]["loss_te"])
    assert loaded.header["step"] == STEPS


@pytest.mark.parametrize(
    "calls",
    # Quick: within an epoch, at its end, and before the last step.
    [
        pytest.param(n, marks=[] if n in (2, 4, STEPS - 1) else pytest.mark.slow)
        for n in range(1, STEPS)
    ],
)
def test_stopped_after_any_step_and_resumed_is_the_same(tmp_path, uninterrupted, calls):
    run = train(tmp_path / "run", should_stop=stop_after(calls))
    assert run.status()["state"] == "interrupted"
    assert run.status()["message"] == f"stopped after step {calls}"
    steps = []
    again = train(
        tmp_path / "run", on_start=lambda *args: steps.append(int(args[2].step))
    )
    assert steps == [calls]
    assert again.status()["state"] == "done"
    assert content(again) == content(uninterrupted)


def test_hooks_keep_the_states_that_they_are_given(tmp_path, uninterrupted):
    kept = []
    run = train(
        tmp_path / "run",
        on_start=lambda run, dataset, state: kept.append(state),
        on_epoch=lambda state, row: kept.append(state),
    )
    assert content(run) == content(uninterrupted)
    assert [int(state.step) for state in kept] == [0, *range(4, STEPS + 1, 4)]
    norms = [float(optax.tree.norm(eqx.filter(s.model, eqx.is_array))) for s in kept]
    logged = [row["weight_norm"] for row in run.log()]
    assert norms[1:] == pytest.approx(logged, rel=1e-6)


def test_states_that_are_lent_cost_no_copy(tmp_path, uninterrupted):
    lent = []
    run = train(
        tmp_path / "run",
        on_start=lambda run, dataset, state: lent.append(state),
        on_epoch=lambda state, row: lent.append(state),
        lend=True,
    )
    assert content(run) == content(uninterrupted)
    # The next step takes them, all but the last.
    taken = [state.model.conv.weight.is_deleted() for state in lent]
    assert taken == [True] * 4 + [False]


def test_what_does_not_fit_into_memory_is_refused_unallocated(tmp_path, monkeypatch):
    config = dataclasses.replace(CONFIG, arch="resnet8", width=1e4, dataset="synthetic")
    config = dataclasses.replace(config, limit_train=64, limit_test=20)
    with pytest.raises(UsageError, match=r"has 7,372,815,520,010 parameters, .* lower"):
        train_run(config, tmp_path, devices=1)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("eqcifar.runs._train.memory_limit", lambda mesh: 1000)
    with pytest.raises(RunError, match=r"a step needs .* GB on a device, which has"):
        train(tmp_path / "run")
    assert Run(tmp_path / "run").status()["state"] == "failed"


def test_stopped_at_every_second_step_is_the_same(tmp_path, uninterrupted):
    for _ in range(STEPS // 2 - 1):
        run = train(tmp_path / "run", should_stop=stop_after(2))
        assert run.status()["state"] == "interrupted"
    assert content(train(tmp_path / "run")) == content(uninterrupted)


def test_a_run_that_failed_between_writes_is_the_same(tmp_path, uninterrupted):
    path = tmp_path / "run"
    train(path, should_stop=stop_after(6))
    # As a kill leaves them: a row ahead of the checkpoint, one torn, a file begun.
    log = path / "log.tsv"
    rows = (uninterrupted.path / "log.tsv").read_bytes().splitlines(keepends=True)
    log.write_bytes(log.read_bytes() + rows[2] + rows[3][:20])
    (path / ".tmp-123-last.safetensors").write_bytes(b"half")
    assert content(train(path)) == content(uninterrupted)
    assert not list(path.glob(".tmp-*"))
    # And between the last epoch and the model.
    (path / "model.safetensors").unlink()
    assert content(train(path)) == content(uninterrupted)


def test_saving_takes_a_twentieth_of_the_time(tmp_path, monkeypatch, uninterrupted):
    now = 100.0
    saved = []
    save_checkpoint = _train.save_checkpoint

    def save(path, train_state, *rest, **more):
        nonlocal now
        now += 1
        saved.append(int(train_state.step))
        save_checkpoint(path, train_state, *rest, **more)

    def end_epoch(train_state, row):
        nonlocal now
        now += pause
        if row["epoch"] == fails_after:
            raise ZeroDivisionError("oh")

    monkeypatch.setattr(_train, "save_checkpoint", save)
    monkeypatch.setattr(_train, "monotonic", lambda: now)
    path, fails_after, pause = tmp_path / "run", 2, 10
    with pytest.raises(ZeroDivisionError):
        train(path, on_epoch=end_epoch)
    # A second for the first epoch, so none for 20 seconds.
    assert saved == [4]
    assert [row["epoch"] for row in Run(path).log()] == [1, 2]
    fails_after = None
    run = train(path, on_epoch=end_epoch)
    assert saved == [4, 8, 16]
    assert content(run) == content(uninterrupted)
    # Time enough before the third epoch, and none before the last.
    saved.clear()
    pause = 12
    train(tmp_path / "other", on_epoch=end_epoch)
    assert saved == [4, 12, 16]


def test_a_finished_run_is_not_trained_again(uninterrupted):
    before = content(uninterrupted), uninterrupted.status()
    again = train(uninterrupted.path, on_start=lambda *_: pytest.fail("trained"))
    assert again == uninterrupted
    assert (content(again), again.status()) == before


def test_a_damaged_checkpoint_is_refused(tmp_path):
    run = train(tmp_path / "run", should_stop=stop_after(2))
    last = run.path / "last.safetensors"
    last.write_bytes(last.read_bytes()[:-1])
    with pytest.raises(runs.CheckpointError, match="last.safetensors is damaged"):
        train(run.path)
    assert run.status()["state"] == "failed"
    assert "damaged" in run.status()["message"]


def test_other_data_or_configuration_is_refused(tmp_path):
    run = train(tmp_path / "run", should_stop=stop_after(2))
    with pytest.raises(UsageError, match="is not what .* was trained on"):
        train(run.path, dataset=small_dataset(train=65))
    with pytest.raises(UsageError, match="another configuration"):
        train(run.path, dataclasses.replace(CONFIG, lr=0.25))


def test_another_environment_is_told(tmp_path, monkeypatch):
    run = train(tmp_path / "run", should_stop=stop_after(2))
    monkeypatch.setenv("XLA_FLAGS", "--xla_other")
    said = []
    train(run.path, should_stop=stop_after(2), warn=said.append)
    assert len(said) == 1
    assert "XLA_FLAGS  -> --xla_other" in said[0]
    environment = run.environment()
    assert environment["flags"]["XLA_FLAGS"] == "--xla_other"
    assert environment["flags"].items() >= parallel.compiler_options().items()
    assert environment["earlier"][0]["flags"]["XLA_FLAGS"] == ""


def test_divergence_keeps_the_last_good_checkpoint(tmp_path):
    config = dataclasses.replace(CONFIG, lr=1e30, clip_norm=0.0, warmup=0.5)
    with pytest.raises(Diverged, match="lower the learning rate"):
        train(tmp_path / "run", config)
    status = Run(tmp_path / "run").status()
    assert status["state"] == "failed"
    assert "diverged" in status["message"]
    assert not (tmp_path / "run" / "model.safetensors").exists()
    # Stopped within an epoch that will diverge, nothing is saved either.
    with pytest.raises(Diverged, match="stopped after step 3, at which .* diverged"):
        train(tmp_path / "other", config, should_stop=stop_after(3))
    assert Run(tmp_path / "other").status()["state"] == "failed"
    assert not (tmp_path / "other" / "last.safetensors").exists()


def test_an_unexpected_error_is_recorded(tmp_path):
    def fails(*_):
        raise ZeroDivisionError("oh")

    with pytest.raises(ZeroDivisionError):
        train(tmp_path / "run", on_start=fails)
    assert Run(tmp_path / "run").status()["message"] == "ZeroDivisionError: oh"
    # Its lock is free again.
    train(tmp_path / "run", should_stop=stop_after(1))


def test_a_second_process_is_told_of_the_first(tmp_path):
    path = tmp_path / "run"
    first = (
        "import sys, time\n"
        "from eqcifar.config import TrainConfig\n"
        "from eqcifar.storage import Run\n"
        "from eqcifar.runs._lock import RunLock\n"
        "from pathlib import Path\n"
        f"config = TrainConfig.from_dict({CONFIG.to_dict()!r})\n"
        f"with RunLock(Run(Path({str(path)!r})), config):\n"
        "    print('claimed', flush=True)\n"
        "    time.sleep(600)\n"
    )
    command = [sys.executable, "-c", first]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "claimed\n"
        for _ in range(3):
            with pytest.raises(UsageError, match=f"in use by pid {process.pid} on"):
                train(path)
        assert Run(path).status()["pid"] == process.pid
        process.kill()
        process.wait()
    assert Run(path).status()["state"] == "running"
    with RunLock(Run(path), CONFIG):
        assert Run(path).status()["pid"] == os.getpid()


@pytest.mark.parametrize(
    "remove", [lambda run: (run / ".lock").unlink(), shutil.rmtree]
)
def test_what_is_removed_while_training_ends_it(tmp_path, uninterrupted, remove):
    path = tmp_path / "run"

    def removes(train_state, row):
        if row["epoch"] == 1:
            remove(path)

    with pytest.raises(RunError, match="was removed while it was in use"):
        train(path, on_epoch=removes)
    run = train(path)
    assert run.log()[-1]["loss"] == uninterrupted.log()[-1]["loss"]


def test_a_full_disk_is_one_line_and_costs_nothing(tmp_path, uninterrupted):
    run = train(tmp_path / "run", should_stop=stop_after(5))
    before = (run.path / "last.safetensors").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(*_):
        # No file may grow beyond this, as if the disk were full.
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))

    try:
        with pytest.raises(
            RunError, match=r"^cannot write .*last\.safetensors: File too large"
        ):
            train(run.path, on_start=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (run.path / "last.safetensors").read_bytes() == before
    assert not list(run.path.glob(".tmp-*"))
    assert run.status()["state"] == "failed"
    assert content(train(run.path)) == content(uninterrupted)


def test_a_folder_that_cannot_be_written_is_refused_before_anything_else(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    (tmp_path / "file").touch()
    where = [tmp_path / "file" / "run"]
    if os.geteuid():
        where.append(closed / "run")
    for path in where:
        with pytest.raises(RunError, match=f"^cannot write {re.escape(str(path))}"):
            train(path, on_start=lambda *_: pytest.fail("trained"))


def test_a_read_only_folder_is_refused(tmp_path, monkeypatch):
    # Root may write anywhere, so let the system say what it says to others.
    path = tmp_path / "run"

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(RunError, match=f"{re.escape(str(path))}: Permission denied"):
        train(path)


def test_train_run_makes_everything_from_its_configuration(tmp_path, monkeypatch):
    asked = []

    def load(name, **kwargs):
        asked.append((name, kwargs))
        return dataclasses.replace(small_dataset(), synthetic=True)

    def create(name, num_classes, *, width, dropout, key, **others):
        made.append((name, num_classes, width, dropout))
        return eqx.nn.make_with_state(SmallNet)(num_classes, dropout=dropout, key=key)

    made = []
    monkeypatch.setattr(data, "load", load)
    monkeypatch.setattr(models, "create", create)
    config = dataclasses.replace(
        CONFIG, arch="resnet8", width=0.25, dropout=0.1, dataset="synthetic", seed=1
    )
    hooks = Hooks(should_stop=stop_after(2))
    run = train_run(config, tmp_path, devices=1, hooks=hooks)
    assert run.path == storage.run_path(tmp_path, config)
    assert run.status()["state"] == "interrupted"
    numbers = {"val_size": 0, "limit_train": 0, "limit_test": 0, "subset": 1.0}
    labels = {"label_noise": 0.0, "label_noise_over": "others", "label_seed": 0}
    assert asked == [("synthetic", numbers | labels)]
    assert made[-1] == ("resnet8", 4, 0.25, 0.1)
    loaded = runs.load_model(run)
    assert loaded.config == config
    assert loaded.header["step"] == 2
    assert run.status()["synthetic"] is True
    assert run.environment()["synthetic"] is True
    assert json.loads((run.path / "config.json").read_text())["synthetic"] is True
    assert loaded.header["data"]["synthetic"] is True
    with pytest.raises(UsageError, match="no finished run in .* 1 that are not"):
        storage.latest_run(tmp_path)


@pytest.mark.parametrize(
    ("fields", "devices", "message"),
    [
        ({"arch": "resnet"}, 1, "unknown architecture 'resnet'"),
        ({"dataset": "./none"}, 1, "unknown dataset './none'"),
        ({"batch_size": 1000}, 1, "larger than the training set of 40"),
        ({"batch_size": 30}, 4, "a batch of 30 does not divide over 4 devices"),
        ({"val_size": 10**6}, 1, "val_size"),
    ],
)
def test_what_cannot_be_trained_leaves_no_folder(tmp_path, fields, devices, message):
    possible = TrainConfig(
        arch="resnet8", width=0.25, dataset="synthetic", limit_train=40, batch_size=20
    )
    with pytest.raises(UsageError, match=message):
        train_run(dataclasses.replace(possible, **fields), tmp_path, devices=devices)
    assert not list(tmp_path.iterdir())


def test_a_network_of_ones_own_that_cannot_be_trained_leaves_no_folder(tmp_path):
    config = dataclasses.replace(CONFIG, batch_size=65)
    with pytest.raises(UsageError, match="larger than the training set of 64"):
        train(tmp_path / "run", config)
    with pytest.raises(UsageError, match="choose --bn-group 4 or a divisor"):
        train(tmp_path / "run", grad_accum=4)
    assert not list(tmp_path.iterdir())


def test_a_finished_run_needs_no_data(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "load", lambda *_, **__: pytest.fail("loaded"))
    config = TrainConfig(dataset="gone")
    path = storage.run_path(tmp_path, config)
    path.mkdir(parents=True)
    (path / "model.safetensors").touch()
    (path / "status.json").write_text('{"state": "done"}')
    assert train_run(config, tmp_path, devices=1) == Run(path)


@pytest.mark.slow
def test_killed_at_random_moments_is_the_same():
    options = ["--only", "SIGKILL, plain", "--tries", "3", "--unkept"]
    command = [sys.executable, "-m", "benchmarks", "faults", *options]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "'value': 3, 'unit': 'tries'" in done.stdout


def test_a_finished_run_is_not_taken_for_another(tmp_path):
    first = TrainConfig(epochs=1, batch_size=64, warmup=0.0)
    run = train_run_with(tmp_path / "run", small_dataset(), *small_net(), first)
    assert run.is_done()
    other = TrainConfig(epochs=1, batch_size=64, warmup=0.0, seed=5)
    with pytest.raises(UsageError, match="seed = 0 there, 5 here.: train into another"):
        train_run_with(tmp_path / "run", small_dataset(), *small_net(), other)


class Gelu(eqx.Module):
    """A `SmallNet` in all its arrays."""

    conv: eqx.nn.Conv2d
    norm: models.BatchNorm
    dropout: eqx.nn.Dropout
    linear: eqx.nn.Linear

    def __init__(self, *, key):
        net = SmallNet(key=key)
        self.conv, self.norm = net.conv, net.norm
        self.dropout, self.linear = net.dropout, net.linear

    def __call__(self, x, state, *, key=None):
        x, state = self.norm(self.conv(x), state)
        x = self.dropout(jax.nn.gelu(x).mean((1, 2)), key=key)
        return self.linear(x), state


class Wider(eqx.Module):
    inner: SmallNet

    def __call__(self, x, state, *, key=None):
        return self.inner(x, state, key=key)


def rolled(dataset):
    """The same images under other labels."""
    labels = (dataset.train.labels + 1) % 4
    return dataclasses.replace(
        dataset, train=dataclasses.replace(dataset.train, labels=labels)
    )


@pytest.mark.parametrize("calls", [2, None])
def test_a_run_is_compared_with_all_that_it_is_made_of(tmp_path, calls):
    config = TrainConfig(epochs=2, batch_size=16, warmup=0.0)
    path = tmp_path / "run"

    def train(dataset=None, net=None, stop=None, **more):
        model, state = small_net() if net is None else net
        return train_run_with(
            path,
            small_dataset() if dataset is None else dataset,
            model,
            state,
            config,
            mesh=make_mesh(1),
            hooks=Hooks(should_stop=stop or (lambda: False)),
            **{"about": {"noise": 0.2}, **more},
        )

    run = train(stop=stop_after(calls) if calls else None)
    assert run.is_done() == (calls is None)
    before = {file.name: file.read_bytes() for file in run.path.glob("*.safetensors")}
    make = eqx.nn.make_with_state
    key = jax.random.key(0)
    for changed, message in (
        ({"dataset": rolled(small_dataset())}, "data of 'small' is not what .* on"),
        ({"about": {"noise": 0.1}}, "about {'noise': 0.2} there, {'noise': 0.1} here"),
        ({"about": None}, "about {'noise': 0.2} there, {} here"),
        ({"loss": absolute_error}, "loss = 'mse' there, 'tests.test_runs_train.abs"),
        ({"net": make(Gelu)(key=key)}, "arch = 'tests.helpers.SmallNet' there, 'tests"),
        ({"net": small_net(classes=5)}, r"linear.weight is float32\[4, 6\] there"),
        (
            {"net": make(lambda key: Wider(SmallNet(key=key)))(key=key)},
            "arch = 'tests.helpers.SmallNet' there, 'tests.test_runs_train.Wider' here",
        ),
    ):
        with pytest.raises(UsageError, match=message):
            train(**changed)
    after = {file.name: file.read_bytes() for file in run.path.glob("*.safetensors")}
    assert after == before
    assert train().is_done()


def test_names_are_those_of_what_is_trained(tmp_path):
    dataset = small_dataset()
    resnet = models.create("resnet8", 4, width=0.25, key=jax.random.key(0))
    config = TrainConfig(arch="resnet8", width=0.25, dataset="cifar10")

    def named(net, **options):
        made = runs.named_config(config, dataset, *net, **options)
        assert made.dataset == "small"
        return made.arch, made.loss

    assert named(resnet) == ("resnet8", "mse")
    assert named(resnet, loss=absolute_error)[1] == f"{__name__}.absolute_error"
    # Of the same class, but another network than the name's.
    other = models.create("resnet20", 4, width=0.25, key=jax.random.key(0))
    assert named(other)[0] == "eqcifar.models.ResNet"
    flag = eqx.tree_at(lambda net: net[0].stem, resnet, eqx.nn.Identity())
    assert named(flag)[0] == "eqcifar.models.ResNet"
    assert named(small_net())[0] == "tests.helpers.SmallNet"


def test_what_is_said_of_a_run_is_kept(tmp_path):
    config = TrainConfig(epochs=1, batch_size=64, warmup=0.0)
    about = {"noise": 0.2, "teacher": "none", "distilled": False}
    named = runs.named_config(config, small_dataset(), *small_net())
    path = storage.run_path(tmp_path, named, about)
    assert path != storage.run_path(tmp_path, named)
    assert path.relative_to(tmp_path).parts[0] == "small"
    assert path.parent.name.startswith("tests.helpers.SmallNet-ep1")
    run = train_run_with(path, small_dataset(), *small_net(), config, about=about)
    assert run.description()["about"] == about
    assert runs.load_model(run, like=small_net()).header["about"] == about
    (record,) = results.read_records(tmp_path)
    assert (record.about, record.in_python) == (about, True)
    (table,) = results.tabulate([record])
    assert table.groups[0].fields == {"arch": "SmallNet", "dataset": "small"}
    assert table.common == {
        **{"epochs": 1, "batch_size": 64, "warmup": 0.0},
        **about,
    }
    for wrong, message in (
        ({"lr": 1}, "'lr' means something already"),
        ({"acc_te": 1}, "'acc_te' means something already"),
        ({"a b": 1}, "'a b' is no name"),
        ({"a": [1]}, r"a = \[1\] must be a finite number"),
        ({"a": math.nan}, "a = nan must be a finite number"),
    ):
        with pytest.raises(UsageError, match=message):
            train_run_with(
                tmp_path / "no", small_dataset(), *small_net(), config, about=wrong
            )
    assert not (tmp_path / "no").exists()


def test_a_network_made_in_python_says_how_to_read_it(tmp_path):
    config = TrainConfig(epochs=1, batch_size=64, warmup=0.0)
    about = {"noise": 0.2}
    run = train_run_with(
        tmp_path / "run", small_dataset(), *small_net(), config, about=about
    )
    said = "holds a tests.helpers.SmallNet, which no name in .* makes: in Python"
    image = tmp_path / "image.png"
    Image.new("RGB", (32, 32)).save(image)
    for command in ("eval", "sharpness", "export", "predict"):
        more = (image,) if command == "predict" else ()
        result = run_cli(command, run.path, *more)
        assert (result.exit_code, result.stdout) == (2, "")
        assert re.search(said, result.stderr)
        assert result.stderr.count("\n") == 1
    with pytest.raises(UsageError, match="cannot be had: unknown dataset 'small'"):
        measurements.open_network(run.path, like=small_net())
    subject = measurements.open_network(run.path, small_net(), small_dataset())
    assert subject.same_data
    other = rolled(small_dataset())
    assert not measurements.open_network(run.path, small_net(), other).same_data
    exchange.export_model(run, tmp_path / "export", like=small_net())
    card = (tmp_path / "export" / "README.md").read_text()
    assert 'runs.load_model("model.safetensors", like=(model, state))' in card
    assert "| `noise`, in Python | `0.2` | |" in card
    assert "eqcifar eval" not in card
    loaded = runs.load_model(tmp_path / "export", like=small_net())
    assert eqx.tree_equal(loaded.model, subject.model)


def test_a_folder_of_runs_is_not_a_run(tmp_path):
    config = TrainConfig(epochs=1, batch_size=64, warmup=0.0)
    folder = tmp_path / "all" / "seed0"
    train_run_with(folder, small_dataset(), *small_net(), config)
    train_run_with(tmp_path / "all" / "seed1", small_dataset(), *small_net(), config)
    (tmp_path / "empty").mkdir()
    for command in ("eval", "export"):
        result = run_cli(command, tmp_path / "all")
        assert result.exit_code == 2
        assert f"holds 2 runs: name one, such as {folder} (" in result.stderr
        result = run_cli(command, tmp_path / "empty")
        assert "is not the folder of a run, and there is none below" in result.stderr
        result = run_cli(command, tmp_path / "none")
        assert f"no file {tmp_path / 'none'}" in result.stderr


def test_a_finished_run_whose_folder_of_images_changed_is_refused(
    tmp_path, monkeypatch
):
    folder = tmp_path / "images"
    folder.mkdir()
    found = small_dataset()
    monkeypatch.setattr(data, "load", lambda *_, **__: found)
    make = eqx.nn.make_with_state(SmallNet)
    monkeypatch.setattr(models, "create", lambda *_, key, **__: make(key=key))
    config = TrainConfig(dataset=str(folder), epochs=1, batch_size=64, warmup=0.0)
    run = train_run(config, tmp_path / "results", devices=1)
    assert run.is_done()
    assert train_run(config, tmp_path / "results", devices=1) == run
    found = rolled(found)
    with pytest.raises(UsageError, match="images' is not what .* was trained on"):
        train_run(config, tmp_path / "results", devices=1)
    # What is gone cannot be compared.
    folder.rmdir()
    assert train_run(config, tmp_path / "results", devices=1) == run


def test_measures_of_a_network_that_is_trained_anew_are_dropped(tmp_path):
    run = train(tmp_path / "run")
    table = run.path / "sharpness.tsv"
    append_wide(table, {"step": STEPS, "examples": 10, "tr_hess": 1.0})
    (run.path / "model.safetensors").unlink()
    train(run.path)
    assert len(read_wide(table)) == 1
    for name in ("model.safetensors", "last.safetensors"):
        (run.path / name).unlink()
    train(run.path)
    assert read_wide(table) == []


def absolute_error(logits, target):
    return jax.numpy.abs(logits - target).sum()


def test_a_loss_of_ones_own_is_written_down(tmp_path):
    config = TrainConfig(epochs=1, batch_size=64, warmup=0.0)
    name = f"{__name__}.absolute_error"

    def train_with(loss, path):
        return train_run_with(path, small_dataset(), *small_net(), config, loss=loss)

    run = train_with(absolute_error, tmp_path / "run")
    assert run.config()["loss"] == name
    assert train_with(absolute_error, run.path) == run
    with pytest.raises(UsageError, match="absolute_error' there, 'mse' here"):
        train_with(None, run.path)
    loaded = runs.load_model(run, like=small_net())
    test = small_dataset().test
    logits = predict(loaded.model, loaded.state, test.images, config)
    with pytest.raises(UsageError, match=f"no loss '{name}' here: choose mse or ce"):
        evaluate(logits, test.labels, loaded.config.loss)
    evaluation = evaluate(logits, test.labels, absolute_error)
    assert evaluation.loss.value == pytest.approx(run.log()[-1]["loss_te"])
    # Ours by its name, which alone does not find one of another's.
    assert train_with(squared_error, tmp_path / "ours").config()["loss"] == "mse"
    config = dataclasses.replace(config, loss="a.b")
    with pytest.raises(UsageError, match="loss = 'a.b': only Python has it"):
        train_with(None, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_images_too_small_for_the_network_leave_no_folder(tmp_path):
    net = random_network(models.create, "airbench94", 4, width=1 / 16)
    with pytest.raises(UsageError, match="8x8 are too small: this network takes 9x9"):
        train_run_with(tmp_path / "run", small_dataset(), net.model, net.state, CONFIG)
    assert not (tmp_path / "run").exists()

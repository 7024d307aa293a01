"""A loss of one's own, written once for training and for sharpness."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from eqcifar import measurements, models, runs
from eqcifar.config import SharpnessOptions
from eqcifar.errors import UsageError
from eqcifar.losses import LOSSES, Loss, get_loss, squared_error
from eqcifar.parallel import make_mesh
from eqcifar.training import TrainConfig

from .cli_tools import run_cli
from .helpers import small_dataset, small_net

LOGITS, TARGET = np.array([0.3, -1.2, 2.0]), np.array([0.1, 0.7, 0.2])


def threefold(logits, target):
    return 1.5 * jnp.sum((logits - target) ** 2)


def saddle(logits, target):
    return jnp.sum(logits[0] ** 2 - logits[1] ** 2) + 0.0 * jnp.sum(target)


def distance(logits, target):
    """Convex, with another Hessian at each target."""
    return jnp.sqrt(1.0 + jnp.sum((logits - target) ** 2))


def test_names_and_functions_stand_for_losses():
    assert get_loss(squared_error) is get_loss("mse") is LOSSES["mse"]
    own = get_loss(threefold, 0.1)
    assert (own.name, own.label_smoothing) == ("tests.test_losses.threefold", 0.1)
    assert own == get_loss(Loss(threefold), 0.1)
    assert str(own) == "tests.test_losses.threefold loss, labels smoothed by 0.1"
    with pytest.raises(UsageError, match="no loss 'hinge' here: choose mse or ce"):
        get_loss("hinge")


@pytest.mark.parametrize("loss", [*LOSSES.values(), Loss(threefold), Loss(distance)])
def test_a_root_squared_is_the_hessian(x64, loss):
    logits, target = jnp.asarray(LOGITS), jnp.asarray(TARGET)
    hessian = jax.hessian(loss.function)(logits, target)
    columns = [loss.root_product(logits, target, v) for v in jnp.eye(3)]
    root = np.stack(columns, axis=1)
    np.testing.assert_allclose(root @ root.T, hessian, atol=1e-14)
    product = loss.hessian_product(logits, target, jnp.arange(3.0))
    np.testing.assert_allclose(product, hessian @ np.arange(3.0), atol=1e-14)


def test_a_loss_that_is_not_convex_has_no_root():
    point = jnp.asarray(LOGITS), jnp.asarray(TARGET)
    root = Loss(saddle).root_product(*point, jnp.ones(3))
    assert np.isnan(np.asarray(root)).any()


def test_a_label_stands_for_its_smoothed_vector():
    loss, label = get_loss(distance, 0.3), jnp.array(1)
    vector = jnp.array([0.1, 0.8, 0.1])
    logits = jnp.asarray(LOGITS)
    assert float(loss(logits, label)) == pytest.approx(float(loss(logits, vector)))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = TrainConfig(epochs=1, batch_size=64, warmup=0.0, lr=0.01)
    folder = tmp_path_factory.mktemp("own") / "run"
    return runs.train_run_with(
        folder, small_dataset(), *small_net(), config, loss=threefold
    )


OPTIONS = SharpnessOptions(samples=8, batch_size=4, probes=0)


def open_network(run, **more):
    return measurements.open_network(run.path, small_net(), small_dataset(), **more)


def test_a_run_with_it_is_measured_by_it(run):
    subject = open_network(run, loss=threefold)
    found = measurements.measure_network(
        subject, ["trace"], ["train"], OPTIONS, devices=1
    )
    value = found["train"]["trace"].values["tr_ggn"].value
    # Its Hessian in the logits is 3, so that the GGN is thrice that of mse, J'J.
    network = subject.network(OPTIONS)
    flat, unravel = ravel_pytree(network.params)
    examples = subject.examples("train", OPTIONS, make_mesh(1))
    images = examples.prepare(jnp.asarray(examples.images[examples.order]))
    jacobian = jax.jacobian(lambda p: network(unravel(p), images))(flat)
    assert value == pytest.approx(3 * float((jacobian**2).sum()) / 8, rel=1e-4)
    row = measurements.sharpness_row(subject, OPTIONS, found)
    assert row["loss_name"] == "tests.test_losses.threefold"
    assert row["tr_ggn"] == value


def test_without_it_one_is_told_what_to_do(run):
    with pytest.raises(UsageError, match=r"threefold, which only.*--loss mse or ce"):
        open_network(run).loss(OPTIONS)
    assert open_network(run).loss(SharpnessOptions(loss="ce")) == LOSSES["ce"]
    with pytest.raises(UsageError, match=r"threefold, and not with .*distance: give"):
        open_network(run, loss=distance)


def test_the_command_line_says_so_too(tmp_path):
    config = TrainConfig(arch="resnet8", width=0.25, epochs=1, batch_size=64)
    data = runs.load_data(
        TrainConfig(dataset="synthetic", limit_train=64, limit_test=9)
    )

    network = models.create("resnet8", 10, width=0.25, key=jax.random.key(0))
    path = tmp_path / "run"
    runs.train_run_with(path, data, *network, config, loss=threefold)
    result = run_cli("sharpness", path, "--samples", "8")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "threefold, which only Python has" in result.stderr
    assert "--loss mse or ce" in result.stderr.replace("\n", " ")

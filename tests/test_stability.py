"""Where training turns unstable, against quadratics and dense Hessians."""

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from eqcifar import data, runs
from eqcifar.errors import UsageError
from eqcifar.measurements import StabilityLog, threshold
from eqcifar.sharpness import Operator, leading_eigenpair
from eqcifar.storage import read_wide
from eqcifar.training import Diverged, TrainConfig
from eqcifar.training._optimisers import make_optimiser

from .helpers import small_dataset, small_net
from .test_sam import leaves, plain_small_net

CONFIG = TrainConfig(
    epochs=2,
    batch_size=16,
    lr=0.1,
    warmup=0.0,
    weight_decay=0.02,
    clip_norm=0.0,
    eval_every=2,
)
DATA = small_dataset()


def train(
    path,
    config=CONFIG,
    *,
    every=3,
    batches=2,
    stop_at=None,
    kill_at=None,
    network=None,
    dataset=DATA,
    **hooks,
):
    """A run with its rows, which may be interrupted after a step."""
    watch = StabilityLog(config, every, batches=batches)
    model, state = small_net(dropout=0.3) if network is None else network
    seen = [0]

    def on_step(step, train_state):
        seen[0] = step
        watch.on_step(step, train_state)

    def on_start(run, data, train_state):
        seen[0] = int(train_state.step)
        watch.on_start(run, data, train_state)

    def should_stop():
        if seen[0] == kill_at:
            raise KeyboardInterrupt
        return seen[0] == stop_at

    run = runs.train_run_with(
        path,
        dataset,
        model,
        state,
        config,
        hooks=runs.Hooks(
            on_start=on_start,
            on_step=on_step,
            on_save=watch.on_save,
            should_stop=should_stop,
            **hooks,
        ),
    )
    return run, read_wide(path / "stability.tsv")


@pytest.mark.parametrize(
    ("optimiser", "momentum", "nesterov", "expected"),
    [
        ("sgd", 0.0, True, 20.0),
        ("sgd", 0.9, False, 38.0),
        ("sgd", 0.9, True, 38 / 2.8),
        ("adamw", 0.9, True, 380.0),
        ("adamw", 0.0, True, 20.0),
    ],
)
def test_quadratics_diverge_above_the_threshold_alone(
    x64, optimiser, momentum, nesterov, expected
):
    config = dataclasses.replace(
        CONFIG,
        optimiser=optimiser,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=0.0,
        # What Adam divides by is to stay.
        beta2=1 - 1e-7,
    )
    edge = threshold(config, 0.1, 10**6)
    assert edge == pytest.approx(expected)
    chain = make_optimiser(config, lambda step: jnp.full((), 0.1))

    def end(curvature):
        position: Any = {"x": jnp.array([1e-12])}
        state: Any = chain.init(position)
        if optimiser == "adamw":
            # As after so many steps that its mean has forgotten its start, at 1.
            state = jax.tree.map(
                lambda x: jnp.full_like(x, 10**9) if x.dtype == jnp.int32 else x, state
            )
            state = optax.tree.set(state, nu={"x": jnp.ones(1)})

        def step(_, carry):
            position, state = carry
            gradient = {"x": curvature * position["x"]}
            updates, state = chain.update(gradient, state, position)
            return optax.apply_updates(position, updates), state

        position, _ = jax.lax.fori_loop(0, 60, step, (position, state))
        return abs(float(position["x"][0])) / 1e-12

    assert end(0.99 * edge) < 0.5
    assert end(1.01 * edge) > 2


def test_rows_are_those_of_the_dense_hessian(x64, tmp_path):
    adam = {"optimiser": "adamw", "beta2": 0.9, "momentum": 0.6}
    for name, change in (("sgd", {}), ("adamw", adam)):
        config = dataclasses.replace(
            CONFIG, loss="ce", bn_bias_lr=4.0, epochs=1, batch_size=64, **change
        )
        states = []
        _, rows = train(
            tmp_path / name,
            config,
            every=1,
            batches=1,
            network=small_net(),
            on_epoch=lambda state, row, states=states: states.append(state),
        )
        before = [jnp.asarray(x) for x in leaves(small_net()[0])]
        images = (DATA.train.images / 255 - 0.5) / 0.25
        images = jnp.asarray(images.transpose(0, 3, 1, 2))
        decays = [0.02, 0.02, 0.005, 0.02, 0.02] if name == "sgd" else [0.0] * 5
        flat, unravel = ravel_pytree(before)

        def loss(flat, images=images, unravel=unravel):
            logits, _ = plain_small_net(unravel(flat), images)
            chosen = jax.nn.log_softmax(logits)[jnp.arange(64), DATA.train.labels]
            return -jnp.mean(chosen)

        def whole(flat, loss=loss, unravel=unravel, decays=decays):
            squares = [(w**2).sum() for w in unravel(flat)]
            return loss(flat) + sum(
                k / 2 * s for k, s in zip(decays, squares, strict=True)
            )

        hessian = np.asarray(jax.hessian(whole)(flat))
        end = ravel_pytree([jnp.asarray(x) for x in leaves(states[0].model)])[0]
        update = np.asarray(end - flat)
        multiple = ravel_pytree(
            [jnp.full_like(w, 4.0 if k == 2 else 1.0) for k, w in enumerate(before)]
        )[0]
        scale = np.asarray(multiple)
        if name == "adamw":
            # After one step, without the bias of its start, the last gradient's size;
            # here that of the augmented batch, which the optimiser keeps.
            nu = [
                np.asarray(x) for x in leaves(optax.tree.get(states[0].opt_state, "nu"))
            ]
            nu = np.concatenate([x.ravel() for x in nu])
            scale = scale / (np.sqrt(nu / 0.1) + 1e-8)
        root = np.sqrt(scale)
        (row,) = rows
        largest = np.linalg.eigvalsh(root[:, None] * hessian * root)[-1]
        assert float(row["lambda_max"]) == pytest.approx(largest, rel=1e-3)
        assert float(row["bound"]) <= 1.01e-3 * largest
        assert float(row["loss"]) == pytest.approx(float(loss(flat)), rel=1e-10)
        along = update @ hessian @ update / (update @ update)
        assert float(row["directional"]) == pytest.approx(along, rel=1e-8)
        edge = {"sgd": 38 / 2.8, "adamw": 3.2 / 0.1}[name]
        assert float(row["threshold"]) == pytest.approx(edge, rel=1e-6)
        ratio = float(row["lambda_max"]) / float(row["threshold"])
        assert float(row["ratio"]) == pytest.approx(ratio, rel=1e-12)


def test_training_is_not_affected(tmp_path):
    plain = runs.train_run_with(
        tmp_path / "plain", DATA, *small_net(dropout=0.3), CONFIG
    )
    watched, rows = train(tmp_path / "watched")
    for name in ("model.safetensors", "last.safetensors"):
        assert (plain.path / name).read_bytes() == (watched.path / name).read_bytes()
    assert [int(row["step"]) for row in rows] == [0, 3, 6]
    assert not (watched.path / "stability.npz").exists()


def test_a_run_that_ends_at_a_loss_leaves_no_vectors(tmp_path):
    # Epochs of four steps, of which the second one's loss is the first so low.
    config = dataclasses.replace(CONFIG, epochs=4, augment=False)
    whole, _ = train(tmp_path / "whole", config, every=4)
    losses = [row["loss"] for row in whole.log()]
    assert losses[1] < losses[0]
    config = dataclasses.replace(config, until_loss=losses[1])
    run, rows = train(tmp_path / "run", config, every=4)
    assert run.status()["epoch"] == 2
    assert [int(row["step"]) for row in rows] == [0, 4]
    assert not (run.path / "stability.npz").exists()
    # Killed before the model is there, it goes on without a word.
    (run.path / "model.safetensors").unlink()
    run, again = train(tmp_path / "run", config, every=4)
    assert again == rows
    assert run.is_done()


@pytest.mark.parametrize("stop_at", [3, 4, 6])
def test_an_interrupted_run_goes_on_with_the_same_digits(tmp_path, stop_at):
    whole, _ = train(tmp_path / "whole")
    run, _ = train(tmp_path / "cut", stop_at=stop_at)
    assert run.status()["state"] == "interrupted"
    run, _ = train(tmp_path / "cut")
    wanted = (whole.path / "stability.tsv").read_bytes()
    assert (run.path / "stability.tsv").read_bytes() == wanted


def test_what_was_measured_after_the_checkpoint_is_measured_again(tmp_path):
    whole, _ = train(tmp_path / "whole")

    # There is a checkpoint after the fourth step.
    path = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        train(path, kill_at=7)
    assert len(read_wide(path / "stability.tsv")) == 3
    run, _ = train(path)
    wanted = (whole.path / "stability.tsv").read_bytes()
    assert (run.path / "stability.tsv").read_bytes() == wanted


def test_what_cannot_be_measured_or_read_is_told(tmp_path):
    with pytest.raises(Diverged), pytest.warns(UserWarning, match="was not measured"):
        train(tmp_path / "far", dataclasses.replace(CONFIG, lr=1e30), every=1)
    train(tmp_path / "cut", stop_at=4)
    (tmp_path / "cut" / "stability.npz").write_bytes(b"PK")
    with pytest.warns(UserWarning, match="goes on from a random vector"):
        _, rows = train(tmp_path / "cut")
    assert [int(row["step"]) for row in rows] == [0, 3, 6]


class Perceptron(eqx.Module):
    """Two hidden layers of tanh, and no normalisation."""

    layers: eqx.nn.MLP

    def __init__(self, inputs, classes, width, *, key):
        self.layers = eqx.nn.MLP(
            inputs, classes, width, 2, activation=jnp.tanh, key=key
        )

    def __call__(self, x, state, *, key=None):
        return self.layers(x.ravel()), state


def descend(path, dataset, width, *, lr, steps, every):
    """The eigenvalues that gradient descent of all images at a time meets."""
    config = TrainConfig(
        epochs=steps,
        batch_size=len(dataset.train),
        lr=lr,
        warmup=0.0,
        schedule="constant",
        momentum=0.0,
        weight_decay=0.0,
        clip_norm=0.0,
        augment=False,
        eval_every=steps,
    )
    inputs = math.prod(dataset.train.images.shape[1:])
    network = eqx.nn.make_with_state(Perceptron)(
        inputs, len(dataset.classes), width, key=jax.random.key(0)
    )
    _, rows = train(
        path, config, every=every, batches=1, network=network, dataset=dataset
    )
    assert float(rows[-1]["threshold"]) == pytest.approx(2 / lr)
    return np.array([float(row["lambda_max"]) for row in rows]) * lr / 2


@pytest.mark.slow
def test_full_batch_descent_rises_to_the_edge_and_stays(tmp_path):
    ratios = descend(tmp_path / "run", DATA, 32, lr=0.07, steps=400, every=20)
    assert ratios[0] < 0.6
    assert (np.diff(ratios[:6]) > 0).all()
    assert (np.abs(ratios[5:] - 1) < 0.15).all()


@pytest.mark.slow
def test_the_known_experiment_rises_to_the_edge_and_stays(tmp_path):
    # Cohen et al., 2021, figure 1: 5,000 images, two layers of 200 tanh.
    dataset = data.load("synthetic", limit_train=5000, limit_test=100)
    ratios = descend(tmp_path / "run", dataset, 200, lr=0.02, steps=600, every=40)
    assert ratios[2:6].max() < 0.95
    assert (np.abs(ratios[8:] - 1) < 0.15).all()


@pytest.mark.parametrize("curvature", [1.0, 1e3, 1e6])
def test_muon_diverges_at_no_curvature(x64, curvature):
    # Which is why it has no threshold: the length of its filters is given.
    config = dataclasses.replace(CONFIG, optimiser="muon", muon_lr=0.1)
    chain = make_optimiser(config, lambda step: jnp.full((), config.lr))
    start = {"filters": jax.random.normal(jax.random.key(0), (4, 2, 3, 3))}

    def step(_, carry):
        position, state = carry
        gradient = jax.tree.map(lambda x: curvature * x, position)
        updates, state = chain.update(gradient, state, position)
        return optax.apply_updates(position, updates), state

    position, _ = jax.lax.fori_loop(0, 60, step, (start, chain.init(start)))
    length = float(jnp.linalg.norm(position["filters"].ravel()))
    # Of the rescaled filters, and of a step with four singular values of about 1.
    assert length == pytest.approx(2.0, abs=1.3 * 0.1 * 2)


@pytest.mark.parametrize("optimiser", ["muon", "optax.lion"])
def test_optimisers_whose_edge_is_not_known_are_refused(optimiser):
    config = dataclasses.replace(
        CONFIG, optimiser=optimiser, muon_lr=0.1 if optimiser == "muon" else 0.0
    )
    with pytest.raises(UsageError, match=f"no threshold is known .* {optimiser}, for"):
        StabilityLog(config, 1)


def test_an_optimiser_of_one_s_own_is_refused(tmp_path):
    watch = StabilityLog(CONFIG, 1)
    with pytest.raises(
        UsageError, match="no threshold is known of the optimiser optax"
    ):
        runs.train_run_with(
            tmp_path / "run",
            DATA,
            *small_net(),
            CONFIG,
            optimiser=optax.lion,
            hooks=runs.Hooks(on_start=watch.on_start, on_step=watch.on_step),
        )


def test_the_leading_eigenpair_is_found_from_a_vector_nearby(x64):
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(60, 60)))[0]
    values = np.concatenate([[5.0], np.linspace(-8, 4, 59)])
    matrix = jnp.asarray(basis * values @ basis.T)
    start = jnp.asarray(basis[:, 0] + 0.01 * rng.normal(size=60))
    operator = Operator(lambda v: matrix @ v, 60)
    value, bound, vector = leading_eigenpair(operator, start, rtol=1e-6)
    assert abs(value - 5.0) <= bound <= 5e-6
    assert abs(np.asarray(vector) @ basis[:, 0]) == pytest.approx(1.0, abs=1e-8)
    # From the vector itself it takes a product or two.
    operator = Operator(lambda v: matrix @ v, 60)
    leading_eigenpair(operator, vector, rtol=1e-3)
    assert operator.matvecs <= 2

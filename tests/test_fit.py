import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqcifar import training
from eqcifar.errors import UsageError
from eqcifar.losses import squared_error
from eqcifar.parallel import make_mesh
from eqcifar.training import Diverged, Interrupted, TrainConfig, fit, initialise
from eqcifar.training._schedules import learning_rate

from .helpers import small_dataset, small_net

CONFIG = TrainConfig(epochs=2, batch_size=16, lr=0.5, eval_every=2)


def run(config=CONFIG, devices=1, dataset=None, **kwargs):
    dataset = small_dataset() if dataset is None else dataset
    model, state = small_net()
    start = initialise(model, state, config, len(dataset.train.labels))
    mesh = make_mesh(devices)
    return fit(start, dataset, config, mesh=mesh, **kwargs)


def numbers(train_state):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(train_state)]


def assert_close(a, b, rtol):
    for x, y in zip(numbers(a), numbers(b), strict=True):
        scale = max(np.abs(y).max(), 1e-3)
        np.testing.assert_allclose(x, y, rtol=0, atol=rtol * scale)


@pytest.mark.parametrize("bn_group", [0, 4])
def test_same_numbers_on_one_and_eight_devices_in_float64(x64, bn_group):
    config = TrainConfig(
        epochs=2, batch_size=16, lr=0.5, bn_group=bn_group, mixup=0.4, eval_every=2
    )
    one, rows_one = run(config, 1)
    eight, rows_eight = run(config, 8)
    assert int(one.step) == 8
    assert_close(eight, one, 1e-12)
    for row_one, row_eight in zip(rows_one, rows_eight, strict=True):
        for column in ("loss", "weight_norm", "gradient_norm", "loss_te", "acc_tr"):
            np.testing.assert_allclose(row_eight[column], row_one[column], rtol=1e-12)


@pytest.mark.parametrize("bn_group", [0, 4])
def test_same_first_step_on_one_and_eight_devices_in_float32(bn_group):
    config = TrainConfig(epochs=1, batch_size=64, warmup=0.0, bn_group=bn_group)
    one, rows_one = run(config, 1)
    eight, rows_eight = run(config, 8)
    assert_close(eight, one, 1e-5)
    np.testing.assert_allclose(rows_eight[0]["loss"], rows_one[0]["loss"], rtol=1e-5)


def test_steps_in_one_call_are_the_same_steps(x64):
    one_by_one, _ = run(steps_per_call=1)
    three_at_once, _ = run(steps_per_call=3)
    assert_close(three_at_once, one_by_one, 1e-12)


def test_a_step_is_clipped_nesterov_sgd_on_the_loss_with_l2(x64):
    config = TrainConfig(
        epochs=1, batch_size=64, lr=0.5, warmup=0.0, augment=False, clip_norm=0.3
    )
    dataset = small_dataset()
    model, state = small_net()
    images = dataset.train.images.transpose(0, 3, 1, 2) / 255
    inputs = jnp.asarray((images - 0.5) / 0.25)
    targets = jnp.eye(4)[dataset.train.labels]
    parameters, static = eqx.partition(model, eqx.is_inexact_array)

    def objective(parameters):
        network = eqx.combine(parameters, static)
        apply = jax.vmap(
            network, in_axes=(0, None), out_axes=(0, None), axis_name="batch"
        )
        logits, _ = apply(inputs, state)
        squares = sum(jnp.sum(p**2) for p in jax.tree.leaves(parameters))
        error = 0.5 * jnp.mean(jnp.sum((logits - targets) ** 2, axis=1))
        return error + 5e-4 * 0.5 * squares

    grads = jax.grad(objective)(parameters)
    norm = math.sqrt(sum(float(jnp.sum(g**2)) for g in jax.tree.leaves(grads)))
    assert norm > 0.3
    # From rest, Nesterov's update is (1 + momentum) times the clipped gradient.
    expected = jax.tree.map(
        lambda p, g: p - 0.5 * 1.9 * 0.3 / norm * g, parameters, grads
    )
    trained, (row,) = run(config)
    assert_close(eqx.filter(trained.model, eqx.is_inexact_array), expected, 1e-12)
    assert row["gradient_norm"] == pytest.approx(norm, rel=1e-6)


def test_batch_statistics_of_groups_are_those_of_each_group(x64):
    model, state = small_net()
    inputs = jax.random.normal(jax.random.key(1), (12, 3, 8, 8))
    keys = jax.random.split(jax.random.key(0), 12)
    forward = training._forward.forward_train
    logits, grouped = forward(model, state, inputs, keys, 4)
    parts = zip(inputs.reshape(3, 4, 3, 8, 8), keys.reshape(3, 4), strict=True)
    alone = [forward(model, state, *part) for part in parts]
    np.testing.assert_allclose(
        logits, np.concatenate([part for part, _ in alone]), rtol=1e-13
    )
    mean = jax.tree.map(lambda *leaves: sum(leaves) / 3, *[s for _, s in alone])
    for x, y in zip(jax.tree.leaves(grouped), jax.tree.leaves(mean), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-13)


def test_learning_rate_warms_up_for_a_tenth_then_falls_as_a_cosine():
    config = TrainConfig(epochs=10, batch_size=10, lr=0.8)
    schedule = learning_rate(config, 100)
    assert float(schedule(0)) == 0
    assert float(schedule(5)) == pytest.approx(0.4)
    assert float(schedule(10)) == pytest.approx(0.8)
    for step in (25, 55, 100):
        cosine = 0.8 * 0.5 * (1 + math.cos(math.pi * (step - 10) / 90))
        assert float(schedule(step)) == pytest.approx(cosine, abs=1e-6)


def test_every_epoch_visits_each_example_once_in_its_own_order():
    def order(seed, epoch):
        return np.asarray(training._step.epoch_order(jax.random.key(seed), epoch, 50))

    first, second = order(0, 0), order(0, 1)
    assert sorted(first) == sorted(second) == list(range(50))
    assert (first != second).any()
    assert (first != order(1, 0)).any()


@dataclasses.dataclass
class Scaled:
    """A loss that can change, and so has no hash."""

    factor: float = 1.0

    def __call__(self, logits, target):
        return self.factor * jnp.mean((logits - target) ** 2)


def test_a_loss_that_has_changed_is_the_one_trained_on():
    config, loss = dataclasses.replace(CONFIG, epochs=1, eval_every=1), Scaled()
    start = run(config, loss=loss)[1][-1]["loss_te"]
    loss.factor = 0.0
    model, rows = run(config, loss=loss)
    assert rows[-1]["loss_te"] == 0 < start
    # Without a gradient only weight decay moves the weights, all by one factor.
    before, after = small_net()[0].conv.weight, model.model.conv.weight
    ratio = np.asarray(after) / np.asarray(before)
    np.testing.assert_allclose(ratio, ratio.flat[0], rtol=1e-4)


def test_another_seed_takes_the_same_program():
    config = dataclasses.replace(CONFIG, flip="alternating")
    first = run(config)[1][-1]["loss"]
    programs = training._step.make_steps.cache_info().misses
    second = run(dataclasses.replace(config, seed=1))[1][-1]["loss"]
    assert training._step.make_steps.cache_info().misses == programs
    assert first != second


@pytest.mark.parametrize(
    ("change", "stored"),
    [
        (
            {"bn_bias_lr": 4.0},
            [
                [1.2546072349829456, 1.0826523540096147],
                [1.1012583866251362, 1.0155993670206616],
                [3.238643647631145, 3.3520457388460785],
                [0.5463619307586233, 0.3942438280139731],
            ],
        ),
        (
            {"optimiser": "adamw"},
            [
                [1.2729882952273335, 1.1840838631377004],
                [1.3176070847642718, 1.1256276283197406],
                [7.017738110413063, 7.760018942987084],
                [0.45861999908454254, 0.2941863025251566],
            ],
        ),
    ],
)
def test_options_that_are_off_leave_the_digits_of_a_run(x64, change, stored):
    # The digits are those of a version that had none of them: SAM, CutMix, Random
    # Erasing, averages over epochs, an end at a loss. What is drawn is float32, whose
    # rounding the compiler's optimisation decides.
    off = {"sam_adaptive": True, "sam_m": 8, "cutmix_probability": 0.9}
    off |= {"sam": 0.0, "cutmix": 0.0, "erase": 0.0, "swa_from": 0, "until_loss": 1e-9}
    config = TrainConfig(
        epochs=2,
        batch_size=16,
        lr=0.2,
        mixup=0.4,
        crop_pad=1,
        cutout=3,
        loss="ce",
        label_smoothing=0.1,
        **change,
        **off,
    )
    model, state = small_net(dropout=0.3)
    start = initialise(model, state, config, 64)
    _, rows = fit(start, small_dataset(), config, mesh=make_mesh(1))
    for name, expected in zip(
        ("loss", "loss_te", "weight_norm", "gradient_norm"), stored, strict=True
    ):
        assert [row[name] for row in rows] == pytest.approx(expected, rel=1e-7), name


def test_rows_hold_the_means_of_the_epoch_and_measure_when_asked():
    seen = []
    state, rows = run(on_epoch=lambda state, row: seen.append(row["epoch"]))
    assert seen == [1, 2]
    assert math.isnan(rows[0]["acc_te"])
    dataset = small_dataset()
    logits = training.predict(state.model, state.state, dataset.test.images, CONFIG)
    accuracy = (logits.argmax(1) == dataset.test.labels).mean()
    assert rows[1]["acc_te"] == accuracy
    squares = sum(
        float((p.astype(np.float64) ** 2).sum())
        for p in numbers(eqx.filter(state.model, eqx.is_inexact_array))
    )
    assert rows[1]["weight_norm"] == pytest.approx(math.sqrt(squares), rel=1e-6)
    assert rows[1]["lr"] == pytest.approx(float(learning_rate(CONFIG, 64)(7)))


def test_it_learns():
    config = TrainConfig(epochs=20, batch_size=16, lr=0.3, augment=False, eval_every=20)
    _, rows = run(config)
    assert rows[-1]["acc_te"] >= 0.9


def test_interrupted_at_any_step_it_goes_on_to_the_same_end():
    whole, rows = run()
    for stop_at in range(1, 8):
        asked = iter([False] * (stop_at - 1) + [True])
        first: list[training.Row] = []
        with pytest.raises(Interrupted) as stopped:
            run(
                should_stop=asked.__next__,
                on_epoch=lambda state, row, rows=first: rows.append(row),
            )
        state, rest = fit(
            stopped.value.train_state, small_dataset(), CONFIG, mesh=make_mesh(1)
        )
        for x, y in zip(numbers(state), numbers(whole), strict=True):
            np.testing.assert_array_equal(x, y)
        for row, expected in zip(first + rest, rows, strict=True):
            timing = {"seconds": 0, "images_per_s": 0}
            np.testing.assert_equal(row | timing, expected | timing)


def test_a_hook_keeps_what_it_is_given():
    kept = []
    last, _ = run(on_epoch=lambda state, row: kept.append(state))
    assert [int(state.step) for state in kept] == [4, 8]
    for x, y in zip(numbers(kept[1]), numbers(last), strict=True):
        np.testing.assert_array_equal(x, y)
    # The first is what an interruption there leaves.
    asked = iter([False] * 4 + [True])
    with pytest.raises(Interrupted) as stopped:
        run(should_stop=asked.__next__)
    for x, y in zip(numbers(kept[0]), numbers(stopped.value.train_state), strict=True):
        np.testing.assert_array_equal(x, y)
    # Lent, it is the state itself, which the next step takes.
    lent = []
    run(on_epoch=lambda state, row: lent.append(state), lend=True)
    with pytest.raises(RuntimeError, match="deleted"):
        numbers(lent[0])


def test_dropout_differs_between_examples_and_steps():
    model, state = small_net(dropout=0.5)
    inputs = jnp.ones((2, 3, 8, 8))
    forward = training._forward.forward_train
    first, _ = forward(model, state, inputs, jax.random.split(jax.random.key(0)))
    second, _ = forward(model, state, inputs, jax.random.split(jax.random.key(1)))
    assert (first[0] != first[1]).any()
    assert (first != second).any()


def test_bfloat16_rounds_activations_but_not_parameters_or_statistics():
    config = TrainConfig(epochs=1, batch_size=64, warmup=0.0, precision="bf16")
    half, rows_half = run(config)
    full, rows_full = run(TrainConfig(epochs=1, batch_size=64, warmup=0.0))
    for leaf in jax.tree.leaves(eqx.filter(half, eqx.is_inexact_array)):
        assert leaf.dtype == jnp.float32
    assert rows_half[0]["loss"] == pytest.approx(rows_full[0]["loss"], rel=2**-7)
    assert rows_half[0]["loss"] != rows_full[0]["loss"]
    before = eqx.filter(small_net()[0], eqx.is_inexact_array)
    moved_half, moved_full = (
        np.concatenate(
            [
                (np.asarray(a) - np.asarray(b)).ravel()
                for a, b in zip(
                    jax.tree.leaves(eqx.filter(after.model, eqx.is_inexact_array)),
                    jax.tree.leaves(before),
                    strict=True,
                )
            ]
        )
        for after in (half, full)
    )
    error = np.linalg.norm(moved_half - moved_full) / np.linalg.norm(moved_full)
    assert error < 2**-5


def test_divergence_is_reported_before_the_epoch_is_recorded():
    config = TrainConfig(epochs=2, batch_size=16, lr=1e30, warmup=0.0, clip_norm=0.0)
    recorded = []
    with pytest.raises(Diverged, match="in epoch 1, after step 2 of 8; lower"):
        run(config, on_epoch=lambda state, row: recorded.append(row))
    assert not recorded


def test_batches_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match="choose --batch-size 64 or less"):
        run(TrainConfig(batch_size=65))
    with pytest.raises(UsageError, match="multiple of 8, or --devices 6"):
        run(TrainConfig(batch_size=12), devices=8)
    with pytest.raises(UsageError, match="9 devices asked for, but there are 8"):
        make_mesh(9)


def test_a_custom_loss_is_used():
    def double(logits, target):
        return 2 * squared_error(logits, target)

    config = TrainConfig(epochs=1, batch_size=64, warmup=0.0, weight_decay=0.0)
    _, (plain,) = run(config)
    _, (doubled,) = run(config, loss=double)
    assert doubled["loss"] == pytest.approx(2 * plain["loss"], rel=1e-6)

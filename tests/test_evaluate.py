import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqcifar.losses import cross_entropy, squared_error
from eqcifar.parallel import make_mesh
from eqcifar.training import (
    TrainConfig,
    _evaluate,
    evaluate,
    fit,
    initialise,
    predict,
)

from .helpers import small_dataset, small_net


@pytest.mark.parametrize("devices", [1, 3, 8])
@pytest.mark.parametrize("batch_size", [7, 1000])
def test_predict_gives_each_image_its_own_logits_once(x64, devices, batch_size):
    model, state = small_net()
    images = small_dataset(test=45).test.images
    logits = predict(
        model,
        state,
        images,
        TrainConfig(),
        batch_size=batch_size,
        mesh=make_mesh(devices),
    )
    weight, bias = np.asarray(model.linear.weight), np.asarray(model.linear.bias)
    x = (images.transpose(0, 3, 1, 2) / 255 - 0.5) / 0.25
    x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))
    x = np.einsum("nchwij,ocij->nohw", windows, np.asarray(model.conv.weight))
    # The running statistics are still 0 and 1.
    x = np.maximum(x / np.sqrt(1 + 1e-5), 0).mean((2, 3))
    assert logits.shape == (45, 4)
    np.testing.assert_allclose(logits, x @ weight.T + bias, rtol=1e-11)


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_a_whole_split_in_one_call_as_on_a_gpu_gives_the_same(
    x64, monkeypatch, precision
):
    network, config = small_net(), TrainConfig(test_flip=True, precision=precision)
    images, calls = small_dataset(test=45).test.images, []

    def counted(*arguments):
        calls.append(arguments)
        return predict_batches(*arguments)

    predict_batches = _evaluate._predict_batches
    monkeypatch.setattr(_evaluate, "_predict_batches", counted)

    def run():
        calls.clear()
        logits = predict(*network, images, config, batch_size=7, mesh=make_mesh(2))
        return logits, len(calls)

    by_batch, calls_by_batch = run()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    at_once, calls_at_once = run()
    assert (calls_by_batch, calls_at_once) == (12, 2)
    rounding = {"f32": 1e-13, "bf16": 2**-7}[precision]
    np.testing.assert_allclose(at_once, by_batch, rtol=rounding)


def test_losses_in_closed_form(x64):
    logits, target = jnp.array([1.0, -2.0, 0.5]), jnp.array([0.0, 1.0, 0.0])
    assert float(squared_error(logits, target)) == pytest.approx(
        0.5 * (1 + 9 + 0.25), rel=1e-15
    )
    p = np.exp([1.0, -2.0, 0.5])
    assert float(cross_entropy(logits, target)) == pytest.approx(
        -np.log(p[1] / p.sum()), rel=1e-14
    )


def test_evaluation_of_a_case_computed_by_hand():
    logits = np.eye(10, dtype=np.float32)[[0, 1, 2, 3, 3]] * np.float32(0.9)
    labels = np.array([0, 1, 2, 3, 4], np.int32)
    result = evaluate(logits, labels, "mse")
    assert result.examples == 5
    assert result.accuracy.value == pytest.approx(0.8)
    # Wilson's interval for 4 of 5, as tabulated in Wilson 1927's formula.
    z, p, n = 1.959964, 0.8, 5
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    spread = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert result.accuracy.low == pytest.approx(centre - spread, rel=1e-6)
    assert result.accuracy.high == pytest.approx(centre + spread, rel=1e-6)
    assert result.accuracy_top5.value == 1.0
    right, wrong = 0.5 * 0.1**2, 0.5 * (0.9**2 + 1)
    assert result.loss.value == pytest.approx((4 * right + wrong) / 5, rel=1e-6)
    # All five share the bin of confidence 0.9, where the accuracy is 0.8.
    assert result.calibration_error.plugin == pytest.approx(0.1, rel=1e-5)
    assert result.class_accuracy[4].value == 0
    assert np.isnan(result.class_accuracy[5].value)


def test_confidence_of_cross_entropy_is_the_softmax():
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.3, 0.6, 0.1]], np.float32))
    result = evaluate(logits, np.array([0, 1], np.int32), "ce")
    assert result.calibration_error.plugin == pytest.approx((0.3 + 0.4) / 2, rel=1e-5)
    assert result.loss.value == pytest.approx(-np.log([0.7, 0.6]).mean(), rel=1e-5)


def test_calibrated_predictions_have_a_small_error_inside_its_interval():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(10), size=4000)
    labels = (p.cumsum(1) > rng.random((4000, 1))).argmax(1).astype(np.int32)
    result = evaluate(np.log(p).astype(np.float32), labels, "ce")
    error = result.calibration_error
    assert error.low == 0 <= error.value < error.plugin
    assert error.plugin < 0.03
    assert error.value <= error.high < 0.03
    expected = p.max(1).mean()
    assert result.accuracy.low < expected < result.accuracy.high


def test_fewer_than_five_classes_are_all_in_the_top_five():
    logits = np.asarray(jax.random.normal(jax.random.key(0), (9, 3)))
    assert evaluate(logits, np.zeros(9, np.int32), "mse").accuracy_top5.value == 1.0


def test_smoothed_labels_in_closed_form():
    logits = np.array([[0.5, -1.0, 2.0], [1.0, 0.0, 0.25]], np.float32)
    labels = np.array([2, 1], np.int32)
    target = 0.8 * np.eye(3)[labels] + 0.2 / 3
    mse = evaluate(logits, labels, "mse", label_smoothing=0.2).loss.value
    squares = ((logits - target) ** 2).sum(axis=1)
    assert mse == pytest.approx(0.5 * squares.mean(), rel=1e-6)
    ce = evaluate(logits, labels, "ce", label_smoothing=0.2).loss.value
    share = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert ce == pytest.approx(-(target * np.log(share)).sum(1).mean(), rel=1e-6)


def test_the_log_has_the_loss_that_was_trained():
    config = TrainConfig(epochs=1, batch_size=64, label_smoothing=0.2, loss="ce")
    dataset, network = small_dataset(), small_net()
    start = initialise(*network, config, len(dataset.train))
    state, (row,) = fit(start, dataset, config)
    logits = predict(state.model, state.state, dataset.test.images, config)
    smoothed, one_hot = (
        evaluate(logits, dataset.test.labels, "ce", label_smoothing=s).loss.value
        for s in (0.2, 0.0)
    )
    assert row["loss_te"] == pytest.approx(smoothed, rel=1e-6)
    assert abs(one_hot - smoothed) > 1e-3

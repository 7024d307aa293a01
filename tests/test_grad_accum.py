import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqcifar.errors import UsageError
from eqcifar.parallel import make_mesh
from eqcifar.training import TrainConfig, fit, initialise
from eqcifar.training._forward import forward_train

from .helpers import small_dataset, small_net
from .reference import is_float, make_basic

CONFIG = TrainConfig(
    epochs=1, batch_size=32, lr=0.5, warmup=0.0, bn_group=4, mixup=0.4, ema=0.5
)


def run(config=CONFIG, devices=1, network=None, **kwargs):
    dataset = small_dataset()
    model, state = small_net(dropout=0.3) if network is None else network
    start = initialise(model, state, config, len(dataset.train))
    state, (row,) = fit(start, dataset, config, mesh=make_mesh(devices), **kwargs)
    return state, row


def assert_same(a, b, rtol=1e-12):
    (state_a, row_a), (state_b, row_b) = a, b
    leaves = zip(jax.tree.leaves(state_a), jax.tree.leaves(state_b), strict=True)
    for x, y in leaves:
        scale = max(np.abs(np.asarray(y)).max(), 1e-3)
        np.testing.assert_allclose(x, y, rtol=0, atol=rtol * scale)
    for column in ("loss", "acc", "gradient_norm", "loss_te", "acc_tr"):
        np.testing.assert_allclose(row_a[column], row_b[column], rtol=rtol)


@pytest.fixture(scope="module")
def whole():
    with jax.enable_x64(True):
        return run()


@pytest.mark.parametrize(
    ("devices", "grad_accum", "remat"),
    [
        pytest.param(1, 4, False, marks=pytest.mark.slow),
        pytest.param(1, 1, True, marks=pytest.mark.slow),
        (4, 2, True),
        pytest.param(8, 4, False, marks=pytest.mark.slow),
    ],
)
def test_pieces_remat_and_devices_do_not_change_the_numbers(
    x64, whole, devices, grad_accum, remat
):
    assert_same(run(devices=devices, grad_accum=grad_accum, remat=remat), whole)


def test_pieces_in_a_loop_are_the_same(x64, whole, monkeypatch):
    # As on an accelerator: the loop is rolled, and an epoch is one call.
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert_same(run(devices=2, grad_accum=4, remat=True), whole)


class NoNorm(eqx.Module):
    linear: eqx.nn.Linear
    dropout: eqx.nn.Dropout

    def __call__(self, x, state, *, key=None):
        return self.linear(self.dropout(x, key=key).mean((1, 2))), state


def test_without_batch_statistics_pieces_need_no_groups(x64):
    network = (
        NoNorm(eqx.nn.Linear(3, 4, key=jax.random.key(0)), eqx.nn.Dropout(0.3)),
        eqx.nn.State({}),
    )
    config = dataclasses.replace(CONFIG, bn_group=0)
    whole = run(config, network=network)
    assert_same(run(config, network=network, grad_accum=8), whole)


def test_any_statistics_of_the_batch_need_groups():
    class Centred(eqx.Module):
        linear: eqx.nn.Linear

        def __call__(self, x, state, *, key=None):
            x = x - jax.lax.pmean(x, "batch")
            return self.linear(x.mean((1, 2))), state

    linear = eqx.nn.Linear(3, 4, key=jax.random.key(0))
    network = Centred(linear), eqx.nn.State({})
    config = dataclasses.replace(CONFIG, bn_group=0)
    with pytest.raises(UsageError, match="choose --bn-group 16"):
        run(config, network=network, grad_accum=2)


@pytest.mark.parametrize(
    ("bn_group", "devices", "grad_accum", "message"),
    [
        (0, 1, 4, "but 32 share batch statistics: choose --bn-group 8 or a divisor"),
        (16, 1, 4, "takes 8 examples at a time, but 16 share batch statistics"),
        (4, 1, 3, "grad_accum = 3: must be a divisor of the batch size, 32"),
        (4, 1, 0, "grad_accum = 0: must be a divisor"),
        (4, 8, 8, "a batch of 4 does not divide over 8 devices"),
    ],
)
def test_pieces_that_would_change_the_numbers_are_refused(
    bn_group, devices, grad_accum, message
):
    config = dataclasses.replace(CONFIG, bn_group=bn_group)
    with pytest.raises(UsageError, match=message):
        run(config, devices, grad_accum=grad_accum)


def test_remat_keeps_the_results_of_products_alone():
    shapes = eqx.filter_eval_shape(make_basic, key=jax.random.key(0))
    parameters, static = eqx.partition(shapes, is_float)
    inputs = jax.ShapeDtypeStruct((6, 3, 8, 8), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 6)

    def kept(remat):
        def backward(parameters, inputs):
            def logits(parameters):
                model, state = eqx.combine(parameters, static)
                return forward_train(model, state, inputs, keys, remat=remat)[0]

            return jax.vjp(logits, parameters)[1]

        residuals = jax.tree.leaves(jax.eval_shape(backward, parameters, inputs))
        return sum(math.prod(x.shape) for x in residuals)

    # Of each image: the stem's and four more of 4 x 8 x 8, three of 8 x 4 x 4, logits.
    products = 6 * (5 * 4 * 64 + 3 * 8 * 16 + 10)
    given = sum(math.prod(x.shape) for x in jax.tree.leaves(parameters)) + 6 * 3 * 64
    assert products < kept(True) <= given + products
    assert kept(False) > given + 2 * products


def test_the_memory_of_a_step_is_told_before_the_first():
    told = []
    run(on_compiled=told.append)
    (memory,) = told
    # The images alone are more than this, and all it holds is some thousand numbers.
    assert 64 * 8 * 8 * 3 < memory < 1e6

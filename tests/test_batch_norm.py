import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqcifar.errors import UsageError
from eqcifar.models import BatchNorm, Conv2d

MAPPED = {"axis_name": "batch", "in_axes": (0, None), "out_axes": (0, None)}


def make(size=3, **kwargs):
    return eqx.nn.make_with_state(BatchNorm)(size, **kwargs)


def random_batch(seed=0, shape=(5, 3, 4, 2)):
    return 3 + 2 * np.random.default_rng(seed).standard_normal(shape)


def running(norm, state):
    return state.get(norm.running_mean), state.get(norm.running_var)


@pytest.mark.usefixtures("x64")
def test_agrees_with_the_formulas():
    x, dy = random_batch(0), random_batch(1)
    weight, bias = random_batch(2, (2, 3))
    norm, state = make()
    norm = eqx.tree_at(
        lambda n: (n.weight, n.bias), norm, (jnp.asarray(weight), jnp.asarray(bias))
    )

    @eqx.filter_jit
    def pull_back(norm, x, state):
        def call(weight, bias, x):
            moved = eqx.tree_at(lambda n: (n.weight, n.bias), norm, (weight, bias))
            return jax.vmap(moved, **MAPPED)(x, state)

        y, pull, state = jax.vjp(call, norm.weight, norm.bias, x, has_aux=True)
        return y, pull(jnp.asarray(dy)), state

    y, (dweight, dbias, dx), state = pull_back(norm, jnp.asarray(x), state)

    axes = (0, 2, 3)
    mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    unit = (x - mean) / np.sqrt(var + 1e-5)
    channel = (slice(None), None, None)
    expected_y = unit * weight[channel] + bias[channel]
    expected_dx = (weight[channel] / np.sqrt(var + 1e-5)) * (
        dy - dy.mean(axes, keepdims=True) - unit * (dy * unit).mean(axes, keepdims=True)
    )
    np.testing.assert_allclose(y, expected_y, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(dx, expected_dx, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(dweight, (dy * unit).sum(axes), rtol=1e-12)
    np.testing.assert_allclose(dbias, dy.sum(axes), rtol=1e-12)
    new_mean, new_var = running(norm, state)
    np.testing.assert_allclose(new_mean, 0.1 * mean.ravel(), rtol=1e-12)
    np.testing.assert_allclose(new_var, 0.9 + 0.1 * var.ravel(), rtol=1e-12)


def every_derivative(function, at):
    """Values and both ways to second derivatives that the package takes."""
    along = tuple(jnp.cos(each) for each in at)

    def scalar(*args):
        return sum(jnp.sum(jnp.sin(y)) for y in function(*args))

    def slope(*args):
        return jax.jvp(scalar, args, along)[1]

    def run(at):
        gradient = jax.grad(scalar, (0, 1, 2))
        return (
            function(*at),
            jax.jvp(gradient, at, along),
            jax.jvp(slope, at, along),
        )

    return jax.tree.leaves(jax.jit(run)(at))


@pytest.mark.usefixtures("x64")
def test_every_derivative_is_that_of_the_formula():
    norm, state = make()

    def ours(x, weight, bias):
        layer = eqx.tree_at(lambda n: (n.weight, n.bias), norm, (weight, bias))
        y, moved = jax.vmap(layer, **MAPPED)(x, state)
        return y, *running(norm, moved)

    def theirs(x, weight, bias):
        axes = (0, 2, 3)
        mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
        unit = (x - mean) / jnp.sqrt(var + 1e-5)
        y = unit * weight[:, None, None] + bias[:, None, None]
        return y, 0.1 * mean.ravel(), 0.9 + 0.1 * var.ravel()

    at = tuple(jnp.asarray(random_batch(*a)) for a in ((0,), (1, (3,)), (2, (3,))))
    for a, b in zip(
        every_derivative(ours, at), every_derivative(theirs, at), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.usefixtures("x64")
def test_agrees_with_pytorch_over_several_steps():
    torch = pytest.importorskip("torch", reason="pip install 'eqcifar[torch]'")
    theirs = torch.nn.BatchNorm2d(3).double()
    ours, state = make()
    step = eqx.filter_jit(jax.vmap(ours, **MAPPED))
    # PyTorch's running variance has the factor n / (n - 1) that ours leaves out.
    n = random_batch()[:, 0].size
    biased = np.ones(3)
    for seed in range(5):
        x = random_batch(seed)
        y, state = step(jnp.asarray(x), state)
        before = theirs.running_var.numpy().copy()
        expected = theirs(torch.from_numpy(x)).detach().numpy()
        np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
        unbiased = (theirs.running_var.numpy() - 0.9 * before) / 0.1
        biased = 0.9 * biased + 0.1 * unbiased * (n - 1) / n
        mean, var = running(ours, state)
        np.testing.assert_allclose(mean, theirs.running_mean.numpy(), rtol=1e-12)
        np.testing.assert_allclose(var, biased, rtol=1e-12)

    theirs.running_var.copy_(torch.from_numpy(biased))
    x = random_batch(9)
    evaluation = jax.vmap(eqx.nn.inference_mode(ours), **MAPPED)
    y, after = evaluation(jnp.asarray(x), state)
    expected = theirs.eval()(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
    assert eqx.tree_equal(after, state)


def test_bfloat16_is_normalised_in_float32():
    norm, state = make()
    x = jnp.asarray(random_batch(), jnp.bfloat16)
    params, flags = eqx.partition(norm, eqx.is_array)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    narrow = eqx.combine(params, flags)
    y, new_state = jax.vmap(narrow, **MAPPED)(x, state)
    wide_y, wide_state = jax.vmap(norm, **MAPPED)(x.astype(jnp.float32), state)
    assert y.dtype == jnp.bfloat16
    assert eqx.tree_equal(y, wide_y.astype(jnp.bfloat16))
    assert {leaf.dtype for leaf in jax.tree.leaves(new_state)} == {jnp.dtype("float32")}
    assert eqx.tree_equal(new_state, wide_state)
    y, _ = eqx.nn.inference_mode(narrow)(x[0], new_state)
    assert y.dtype == jnp.bfloat16


def test_a_large_mean_does_not_spoil_the_variance():
    norm, state = make()
    x = random_batch() / 2 + 1000
    _, state = jax.vmap(norm, **MAPPED)(jnp.asarray(x, jnp.float32), state)
    _, var = running(norm, state)
    np.testing.assert_allclose((var - 0.9) / 0.1, x.var((0, 2, 3)), rtol=1e-3)


def test_groups_are_normalised_apart():
    norm, state = make()
    x = jnp.asarray(random_batch(shape=(6, 3, 4, 2)), jnp.float32)
    one_group = jax.vmap(norm, **MAPPED)
    grouped = jax.vmap(one_group, in_axes=(0, None))
    y, states = grouped(x.reshape(2, 3, 3, 4, 2), state)
    for group, rows in enumerate([x[:3], x[3:]]):
        expected, expected_state = one_group(rows, state)
        np.testing.assert_allclose(y[group], expected, rtol=1e-5, atol=1e-6)
        one = jax.tree.map(lambda leaf, group=group: leaf[group], states)
        for a, b in zip(*map(jax.tree.leaves, (one, expected_state)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)


def test_a_vector_has_no_space_to_average_over():
    norm, state = make()
    x = jnp.asarray(random_batch(shape=(5, 3)), jnp.float32)
    y, _ = jax.vmap(norm, **MAPPED)(x, state)
    np.testing.assert_allclose(y.mean(0), np.zeros(3), atol=1e-6)
    np.testing.assert_allclose(y.std(0), np.ones(3), rtol=1e-4)


def test_training_without_a_batch_says_what_to_do():
    norm, state = make()
    x = jnp.ones((3, 4, 4))
    with pytest.raises(UsageError, match="axis_name='batch'.*inference_mode"):
        norm(x, state)
    with pytest.raises(UsageError, match="axis_name='batch'"):
        jax.vmap(norm, axis_name="other", in_axes=(0, None))(x[None], state)
    y, _ = eqx.nn.inference_mode(norm)(x, state)
    np.testing.assert_allclose(y, x / np.sqrt(1 + 1e-5), rtol=1e-6)


def test_what_is_saved_in_inference_mode_is_not_frozen(tmp_path):
    """Arrays alone are saved: the flag belongs to the program, not to the file."""
    norm, state = make()
    evaluation = eqx.nn.inference_mode(norm)
    saved = (eqx.filter(evaluation, eqx.is_array), state)
    eqx.tree_serialise_leaves(tmp_path / "saved", saved)
    arrays, flags = eqx.partition(norm, eqx.is_array)
    arrays, state = eqx.tree_deserialise_leaves(tmp_path / "saved", (arrays, state))
    restored = eqx.combine(arrays, flags)
    x = jnp.asarray(random_batch(), jnp.float32)
    _, moved = jax.vmap(restored, **MAPPED)(x, state)
    assert not eqx.tree_equal(moved, state)


@pytest.mark.parametrize("convolution", [eqx.nn.Conv2d, Conv2d])
@pytest.mark.parametrize("size", [32, 16])
def test_follows_a_convolution_of_as_many_channels_as_rows(convolution, size):
    """Of which the shape does not tell the axis."""
    layer = convolution(3, 32, 3, padding=1, use_bias=False, key=jax.random.key(0))
    norm, state = eqx.nn.make_with_state(BatchNorm)(32)
    x = jax.random.normal(jax.random.key(1), (8, 3, size, size))
    y, _ = jax.vmap(lambda x, state: norm(layer(x), state), **MAPPED)(x, state)
    assert y.shape == (8, 32, size, size)
    np.testing.assert_allclose(y.mean((0, 2, 3)), np.zeros(32), atol=1e-5)
    np.testing.assert_allclose(y.var((0, 2, 3)), np.ones(32), rtol=1e-3)


def test_another_number_of_channels_is_refused():
    norm, state = make()
    for inference in (False, True):
        mode = eqx.nn.inference_mode(norm, inference)
        for shape in ((2, 4, 4, 3), (2, 4, 3), (2, 4), (2,)):
            with pytest.raises(UsageError, match="of 3 channels.*come first"):
                jax.vmap(mode, **MAPPED)(jnp.ones(shape), state)

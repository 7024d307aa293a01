import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from eqcifar.data import augment, cutmix, cutout, erase, mixup, normalise
from eqcifar.errors import UsageError

KEY = jax.random.key(0)


def _images(n, height=11, width=10):
    # At 9 pixels or fewer, some mirrored crops equal others that are not.
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (n, height, width, 3), np.uint8)


def _crops(image, pad=4):
    """Every crop of the padded image: position, then plain and mirrored."""
    height, width, _ = image.shape
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
    crops = [
        padded[top : top + height, left : left + width]
        for top in range(2 * pad + 1)
        for left in range(2 * pad + 1)
    ]
    return np.array([[crop, crop[:, ::-1]] for crop in crops])


def test_augment_gives_each_padded_crop_and_mirror_image_evenly():
    image, n = _images(1)[0], 8192
    out = augment(jax.random.key(0), jnp.asarray(np.tile(image, (n, 1, 1, 1))))
    crops = {crop.tobytes(): 0 for crop in _crops(image).reshape(162, -1)}
    for one in np.asarray(out):
        crops[one.tobytes()] += 1
    counts = np.array(list(crops.values()))
    assert len(counts) == 162
    # 162 equal cells, 161 degrees of freedom: mean 161, standard deviation 18.
    assert ((counts - n / 162) ** 2 / (n / 162)).sum() < 161 + 5 * 18


def test_augment_gives_each_crop_of_another_padding():
    image = _images(1)[0]
    images = jnp.asarray(np.tile(image, (500, 1, 1, 1)))
    found = {one.tobytes() for one in np.asarray(augment(KEY, images, pad=1))}
    assert found == {crop.tobytes() for crop in _crops(image, 1).reshape(18, -1)}
    with pytest.raises(UsageError, match=r"10 pixels .* 11x10: .* --crop-pad below 10"):
        augment(KEY, images, pad=10)


def test_augment_keeps_examples_in_place_and_depends_on_the_key():
    images = _images(50)
    first = np.asarray(augment(jax.random.key(0), jnp.asarray(images)))
    for image, out in zip(images, first, strict=True):
        assert (_crops(image) == out).all((2, 3, 4)).any()
    second = np.asarray(augment(jax.random.key(1), jnp.asarray(images)))
    assert first.dtype == np.uint8
    assert (first != second).any()


def test_normalise_equals_its_formula():
    images = _images(4)
    mean, std = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
    expected = ((images / 255.0 - mean) / std).transpose(0, 3, 1, 2)
    out = normalise(jnp.asarray(images), mean, std)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, expected, atol=1e-6)
    one = normalise(jnp.asarray(images[0]), mean, std)
    np.testing.assert_array_equal(one, out[0])


def test_normalise_rounds_once_to_bfloat16():
    images, mean, std = jnp.asarray(_images(4)), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    out = normalise(images, mean, std, jnp.bfloat16)
    exact = normalise(images, mean, std)
    np.testing.assert_array_equal(out, exact.astype(jnp.bfloat16))


@pytest.mark.parametrize("size", [3, 4, 20])
def test_cutout_has_its_middle_on_each_pixel_evenly(size):
    n, height, width = 4096, 5, 7
    rng = np.random.default_rng(0)
    images = rng.uniform(1, 2, (n, 3, height, width)).astype(np.float32)
    out = np.asarray(cutout(KEY, jnp.asarray(images), size))
    counts = {}
    for row in range(height):
        for column in range(width):
            square = np.zeros((height, width), bool)
            top, left = row - size // 2, column - size // 2
            square[max(top, 0) : top + size, max(left, 0) : left + size] = True
            counts[square.tobytes()] = [counts.get(square.tobytes(), [0])[0] + 1, 0]
    for image, cut in zip(images, out, strict=True):
        square = (cut == 0).all(0)
        np.testing.assert_array_equal(cut, np.where(square, 0, image))
        counts[square.tobytes()][1] += 1
    expected, found = np.array(list(counts.values())).T
    expected = expected * n / (height * width)
    # One degree of freedom a place: mean and half the variance of chi-squared.
    free = len(expected) - 1
    squares = ((found - expected) ** 2 / expected).sum()
    assert squares <= free + 5 * np.sqrt(2 * free)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("group", [0, 3, 12])
def test_mixup_is_of_a_group_in_reverse(group):
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(12, 3, 4, 4))
    targets = np.eye(5)[rng.integers(5, size=12)]
    key = jax.random.key(3)
    both = jnp.asarray(inputs), jnp.asarray(targets)
    mixed, mixed_targets = mixup(key, *both, 0.4, group)

    group = group or 12
    weight = np.asarray(jax.random.beta(key, 0.4, 0.4, (group,), jnp.float32))
    weight = np.maximum(weight, 1 - weight).astype(np.float64)
    for row in range(12):
        place = row % group
        partner, w = row - place + group - 1 - place, weight[place]
        expected = w * inputs[row] + (1 - w) * inputs[partner]
        np.testing.assert_allclose(mixed[row], expected, rtol=1e-12)
        expected = w * targets[row] + (1 - w) * targets[partner]
        np.testing.assert_allclose(mixed_targets[row], expected, rtol=1e-12)


def test_mixup_draws_folded_beta_weights_for_each_example():
    # Odd batch: no example but the middle one is its own partner.
    n = 4001
    targets = jnp.eye(n // 2 + 1, dtype=jnp.float32)[np.abs(np.arange(n) - n // 2)]
    targets = jnp.where(jnp.arange(n)[:, None] < n // 2, -targets, targets)
    inputs = jnp.sign(targets.sum(1))
    mixed, _ = mixup(jax.random.key(0), inputs, targets[:, :2], 0.4)
    weight = np.delete((np.asarray(mixed * inputs) + 1) / 2, n // 2)
    assert weight.min() >= 0.5
    drawn = np.random.default_rng(0).beta(0.4, 0.4, 100_000)
    drawn = np.maximum(drawn, 1 - drawn)
    for q in (0.1, 0.25, 0.5, 0.75):
        # Four standard errors of a quantile's rank.
        rank = (weight <= np.quantile(drawn, q)).mean()
        assert abs(rank - q) < 4 * np.sqrt(q * (1 - q) / n)


def test_mixup_keeps_the_dtype_and_the_sum_of_targets():
    inputs = jnp.ones((4001, 3), jnp.bfloat16)
    targets = jax.nn.one_hot(jnp.arange(4001) % 3, 3, dtype=jnp.float32)
    mixed, mixed_targets = mixup(jax.random.key(0), inputs, targets, 1.0)
    assert mixed.dtype == jnp.bfloat16
    np.testing.assert_array_equal(mixed, inputs)
    np.testing.assert_allclose(mixed_targets.sum(1), 1, rtol=1e-6)


def test_results_do_not_depend_on_how_the_batch_is_sharded():
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("batch"))

    @jax.jit
    def prepare(images, targets):
        images = augment(jax.random.key(0), images)
        inputs = normalise(images, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
        inputs = cutout(jax.random.key(2), inputs, 5)
        inputs = erase(jax.random.key(3), inputs, 0.5, (0.5,) * 3, (0.25,) * 3)
        inputs, targets = mixup(jax.random.key(1), inputs, targets, 0.4)
        return images, *cutmix(jax.random.key(4), inputs, targets, 1.0)

    images, targets = jnp.asarray(_images(16)), jnp.eye(16, dtype=jnp.float32)
    alone = prepare(images, targets)
    shared = prepare(*jax.device_put((images, targets), sharding))
    np.testing.assert_array_equal(alone[0], shared[0])
    for one, other in zip(alone[1:], shared[1:], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare, ks_2samp

from eqcifar.config import TrainConfig
from eqcifar.data import cutmix, erase
from eqcifar.errors import UsageError
from eqcifar.parallel import make_mesh
from eqcifar.runs import named_arrays
from eqcifar.training import AUGMENTATIONS, fit, initialise

from .helpers import small_dataset, small_net

KEY = jax.random.key(0)


def sides(changed):
    """Rows and columns of the rectangle that is all that a mask holds."""
    rows, columns = changed.any(1), changed.any(0)
    np.testing.assert_array_equal(changed, rows[:, None] & columns[None])
    for span in (rows, columns):
        assert np.abs(np.diff(span.astype(int))).sum() <= 2 - span[0] - span[-1]
    return int(rows.sum()), int(columns.sum())


def test_cutmix_puts_a_box_and_the_share_of_its_pixels_into_the_target():
    n, height, width = 200, 9, 12
    inputs = np.broadcast_to(np.arange(n)[:, None, None, None], (n, 3, height, width))
    inputs = inputs.astype(np.float32)
    targets = np.eye(n, dtype=np.float32)
    mixed, labels = map(
        np.asarray, cutmix(KEY, jnp.asarray(inputs), jnp.asarray(targets), 0.7, 0.8)
    )
    for row in range(n):
        other = n - 1 - row
        changed = mixed[row] == other
        np.testing.assert_array_equal(mixed[row][~changed], row)
        assert (changed == changed[0]).all()
        tall, wide = sides(changed[0])
        share = tall * wide / (height * width)
        expected = np.zeros(n)
        expected[[row, other]] = 1 - share, share
        np.testing.assert_allclose(labels[row], expected, atol=1e-7)


@pytest.mark.parametrize("probability", [0.5, 1.0])
def test_boxes_have_the_papers_areas_and_places(probability):
    # Of w from Beta(1, 1), P(sqrt(1 - w) L < k) = (k / L)^2.
    n, length = 20_000, 5
    expected = {}
    for size in range(length):
        likely = probability * ((size + 1) ** 2 - size**2) / length**2
        for middles in itertools.product(range(length), repeat=2):
            box = np.zeros((length, length), bool)
            ends = [(max(m - size // 2, 0), m - size // 2 + size) for m in middles]
            (top, bottom), (left, right) = ends
            box[top:bottom, left:right] = True
            key = box.tobytes()
            expected[key] = expected.get(key, 0) + likely / length**2
    nothing = np.zeros((length, length), bool).tobytes()
    expected[nothing] += 1 - probability
    sign = np.sign(np.arange(n) - n / 2 + 0.5).astype(np.float32)
    shape = n, 1, length, length
    inputs = jnp.asarray(np.broadcast_to(sign[:, None, None, None], shape))
    targets = jnp.ones((n, 1), jnp.float32)
    mixed, _ = cutmix(KEY, inputs, targets, 1.0, probability)
    boxes = np.asarray(mixed != inputs)[:, 0]
    counts = dict.fromkeys(expected, 0)
    for box in boxes:
        counts[box.tobytes()] += 1
    found = np.array([counts[key] for key in expected])
    likely = np.array(list(expected.values()))
    assert chisquare(found, n * likely).pvalue > 1e-4
    areas = np.array([np.frombuffer(key, bool).mean() for key in expected])
    mean, error = likely @ areas, np.sqrt(likely @ areas**2 / n)
    assert abs(boxes.mean() - mean) < 4 * error


def test_rectangles_are_those_of_the_authors_program():
    n, height, width, p = 4000, 32, 24, 0.6
    mean, std = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)
    inputs = jnp.full((n, 3, height, width), 100.0, jnp.float32)
    out = np.asarray(erase(KEY, inputs, p, mean, std))
    found = []
    for image in out:
        changed = (image != 100).all(0)
        assert ((image == 100).all(0) | changed).all()
        if changed.any():
            where = np.argwhere(changed)[0]
            found.append((*sides(changed), *where))
    found = np.array(found)
    assert abs(len(found) / n - p) < 4 * np.sqrt(p * (1 - p) / n)
    # By a loop, as theirs; the paper's algorithm draws the size anew where the place
    # does not fit, which makes large rectangles rarer.
    rng = np.random.default_rng(0)
    sizes = []
    while len(sizes) < 4000:
        area = rng.uniform(0.02, 0.4) * height * width
        ratio = rng.uniform(0.3, 1 / 0.3)
        tall, wide = int(np.sqrt(area * ratio)), int(np.sqrt(area / ratio))
        if tall < height and wide < width:
            sizes.append((tall, wide, rng.integers(height - tall + 1)))
    sizes = np.array(sizes)
    for a, b in (
        (found[:, 0], sizes[:, 0]),
        (found[:, 1], sizes[:, 1]),
        (found[:, 0] * found[:, 1], sizes[:, 0] * sizes[:, 1]),
        (found[:, 2], sizes[:, 2]),
    ):
        result: Any = ks_2samp(a, b)
        assert result.pvalue > 1e-3
    # Down to the pixel's rounding, between the smallest and the largest share.
    areas = found[:, 0] * found[:, 1] / (height * width)
    assert areas.max() <= 0.4
    assert areas.min() > 0.005
    # Whole numbers from 0 to 255, each as often.
    pixels = out.transpose(0, 2, 3, 1) * np.array(std) + np.array(mean)
    pixels = 255 * pixels[(out != 100).all(1)]
    whole = np.round(pixels)
    np.testing.assert_allclose(pixels, whole, atol=1e-3)
    counts = np.bincount(whole.astype(int).ravel(), minlength=256)
    assert chisquare(counts).pvalue > (1e-4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cutmix": -1.0}, "cutmix = -1.0: must be at least 0"),
        ({"cutmix_probability": 0.0}, "cutmix_probability = 0.0: must be above 0 and"),
        ({"erase": 1.5}, "erase = 1.5: must be at least 0 and at most 1"),
    ],
)
def test_bad_values_are_refused_by_name(values, message):
    with pytest.raises(UsageError, match=message):
        TrainConfig.from_dict(values)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_each_has_draws_of_its_own():
    # The others see the same crops, squares and weights with it as without.
    assert list(AUGMENTATIONS) == ["cutout", "erase", "mixup", "cutmix"]
    config = TrainConfig(batch_size=16, epochs=1, lr=0.1, mixup=0.4, cutout=3)
    ends = {}
    for name, values in {
        "plain": {},
        "off": {"cutmix": 0.0, "cutmix_probability": 0.1, "erase": 0.0},
        "on": {"cutmix": 1.0, "erase": 0.5},
        "eight": {"cutmix": 1.0, "erase": 0.5},
    }.items():
        with_it = dataclasses.replace(config, **values)
        mesh = make_mesh(8 if name == "eight" else 1)
        start = initialise(*small_net(), with_it, 64)
        end, _ = fit(start, small_dataset(), with_it, mesh=mesh)
        arrays = named_arrays(end.model, end.state)
        ends[name] = {key: np.asarray(x) for key, x in arrays.items()}
    for key, x in ends["plain"].items():
        np.testing.assert_array_equal(x, ends["off"][key])
        assert (x != ends["on"][key]).any()
        np.testing.assert_allclose(ends["on"][key], ends["eight"][key], 1e-9)

import hashlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqcifar import data
from eqcifar.errors import UsageError


@pytest.fixture(scope="module")
def ten():
    return data.synthetic(10, train=2000, test=1000)


@pytest.mark.parametrize(
    ("classes", "digest"),
    [
        (10, "95fffd87f75ab26127b88fcb0e195d1163f44911d42215b865bbcc7883b443dd"),
        (100, "03b224b2eb6e436cff99ee79648c35276ddc34c1e0b271c36d221de0649ebb41"),
    ],
)
def test_first_images_are_pinned(classes, digest):
    train = data.synthetic(classes, train=100, test=1).train
    found = hashlib.sha256(train.images.tobytes() + train.labels.tobytes())
    assert found.hexdigest() == digest


def test_splits_and_seeds_differ_but_sizes_do_not_matter(ten):
    small = data.synthetic(10, train=333, test=20)
    np.testing.assert_array_equal(small.train.images, ten.train.images[:333])
    np.testing.assert_array_equal(small.test.labels, ten.test.labels[:20])
    other = data.synthetic(10, train=20, test=20, seed=1)
    for one, two in [(other.train, small.train), (small.test, small.train)]:
        assert (one.images[:20] != two.images[:20]).mean() > 0.9


@pytest.mark.parametrize("classes", [10, 100])
def test_schema_is_that_of_cifar(classes):
    dataset = data.check(data.synthetic(classes, train=400, test=200), size=32)
    assert len(set(dataset.classes)) == classes
    assert dataset.synthetic
    assert dataset.title.startswith("SYNTHETIC")
    for split, n in [(dataset.train, 400), (dataset.test, 200)]:
        assert split.images.shape == (n, 32, 32, 3)
        counts = np.bincount(split.labels, minlength=classes)
        np.testing.assert_array_equal(counts, n // classes)


def test_load_gives_the_default_sizes():
    dataset = data.load("synthetic", val_size=500)
    sizes = [len(split) for split in dataset.splits.values()]
    assert sizes == [4500, 500, 1000]
    assert dataset.name == "synthetic"


def test_other_numbers_of_classes_are_refused():
    with pytest.raises(UsageError, match="10 or 100 classes, not 7"):
        data.synthetic(7)


def _ridge(train, test, dataset, strength):
    """Test accuracy of least squares on features, one target a class."""
    mean, scale = train.mean(0), train.std(0).mean()
    train, test = (train - mean) / scale, (test - mean) / scale
    targets = np.eye(10, dtype=train.dtype)[dataset.train.labels] - 0.1
    gram = train @ train.T + strength * np.eye(len(train), dtype=train.dtype)
    scores = test @ (train.T @ np.linalg.solve(gram, targets))
    return (scores.argmax(1) == dataset.test.labels).mean()


def _pixels(images):
    return images.reshape(len(images), -1).astype(np.float32) / 255


def test_no_linear_function_of_the_pixels_tells_the_class(ten):
    train, test = _pixels(ten.train.images), _pixels(ten.test.images)
    best = max(_ridge(train, test, ten, strength) for strength in (1e3, 1e4, 1e5))
    # Above chance, which is 0.1: some colours tell.
    assert 0.15 < best < 0.45


def test_random_convolutional_features_tell_the_class(ten):
    rng = np.random.default_rng(0)
    rows, corners = rng.integers(2000, size=48), rng.integers(26, size=(48, 2))
    patches = [
        ten.train.images[row, top : top + 6, left : left + 6] / 255
        for row, (top, left) in zip(rows, corners, strict=True)
    ]
    filters = np.array(patches) - np.mean(patches, (1, 2), keepdims=True)
    filters /= np.sqrt((filters**2).sum((1, 2, 3), keepdims=True))
    filters = jnp.asarray(filters.transpose(1, 2, 3, 0), jnp.float32)

    @jax.jit
    def features(images):
        images = images.astype(jnp.float32) / 255 - 0.5
        out = jax.lax.conv_general_dilated(
            images, filters, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        out = jax.nn.relu(jnp.concatenate([out, -out], -1))[:, 1:13, 1:13]
        return out.reshape(-1, 3, 4, 3, 4, 96).mean((2, 4)).reshape(len(images), -1)

    train = np.asarray(features(ten.train.images))
    test = np.asarray(features(ten.test.images))
    scale = train.std(0)
    accuracy = _ridge(train / scale, test / scale, ten, 1e2)
    assert accuracy > 0.6


def test_mirror_images_belong_to_the_same_class():
    # Shapes are even, and everything random has a distribution that is even: over
    # many images, each class has the same mean as its mirror images have.
    dataset = data.synthetic(10, train=4000, test=1)
    for label in range(10):
        images = dataset.train.images[dataset.train.labels == label] / 255
        luminance = images.mean(-1)
        contrast = np.abs(luminance - np.median(luminance, (1, 2), keepdims=True))
        difference = (contrast - contrast[:, :, ::-1])[:, :, :16]
        error = difference.std(0) / np.sqrt(len(images))
        assert np.abs(difference.mean(0) / error).max() < 5.5


def test_importing_the_room_does_not_import_datasets():
    code = (
        "import sys, eqcifar.data; "
        "assert not {'datasets', 'pandas', 'pyarrow', 'typer'} & set(sys.modules); "
        "eqcifar.data.load('synthetic', limit_train=10); "
        "assert 'datasets' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

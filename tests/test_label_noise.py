import json

import numpy as np
import pytest
from scipy.stats import chisquare

from eqcifar import data, measurements, runs, storage
from eqcifar.config import TrainConfig
from eqcifar.data import Dataset, Split, with_label_noise
from eqcifar.errors import UsageError
from eqcifar.parallel import make_mesh
from eqcifar.storage._growing_table import read_wide
from eqcifar.training import predict

from .cli_tools import TINY, run_cli

N, CLASSES = 20_000, 5


def clean():
    """Labels in unequal numbers, each with the number of its row in the pixels."""
    labels = np.random.default_rng(3).choice(CLASSES, N, p=[0.4, 0.3, 0.15, 0.1, 0.05])
    images = np.zeros((N, 1, 1, 3), np.uint8)
    images[:, 0, 0] = np.stack([np.arange(N) // 256, np.arange(N) % 256, labels], 1)
    train = Split(images, labels.astype(np.int32))
    return Dataset("rows", tuple("abcde"), train, train.take(np.arange(50)))


@pytest.mark.parametrize(
    ("over", "share", "wrong"),
    [("others", 0.3, 0.3), ("all", 0.3, 0.24), ("others", 1.0, 1.0), ("all", 1.0, 0.8)],
)
def test_labels_are_drawn_evenly_over_the_others_or_over_all(over, share, wrong):
    noisy = with_label_noise(clean(), share, over).train
    np.testing.assert_array_equal(noisy.truth, clean().train.labels)
    np.testing.assert_array_equal(noisy.images, clean().train.images)
    deviation = np.sqrt(wrong * (1 - wrong) / N)
    assert abs(noisy.wrong / N - wrong) <= 4 * deviation
    table = np.zeros((CLASSES, CLASSES))
    np.add.at(table, (noisy.truth, noisy.labels), 1)
    for own, row in enumerate(table):
        assert chisquare(np.delete(row, own)).pvalue > 1e-4


def test_labels_depend_on_their_own_seed_and_on_nothing_else():
    few, many = (with_label_noise(clean(), p).train for p in (0.2, 0.4))
    drawn = few.labels != few.truth
    np.testing.assert_array_equal(few.labels[drawn], many.labels[drawn])
    other = with_label_noise(clean(), 0.2, seed=1).train
    both = drawn & (other.labels != other.truth)
    # As two independent draws: 4 % of the images.
    assert abs(both.mean() - 0.04) < 5 * np.sqrt(0.04 / N)


def test_an_image_has_the_same_label_in_every_subset(tmp_path):
    folder = tmp_path / "images"
    data.export(data.synthetic(train=200, test=20), folder)
    noise = {"label_noise": 0.5, "label_seed": 7}

    def labels(**choices):
        found = data.load(str(folder), **noise, **choices)
        train = found.train
        keys = [image.tobytes() for image in train.images]
        return dict(zip(keys, train.labels, strict=True)), found

    whole, dataset = labels()
    assert dataset.test.true_labels is None
    for choices in ({"subset": 0.3}, {"val_size": 40}, {"val_size": 40, "subset": 0.5}):
        part, found = labels(**choices)
        assert part.items() <= whole.items()
        if found.val is not None:
            assert found.val.true_labels is None
            truth = dict(
                zip(
                    [image.tobytes() for image in dataset.train.images],
                    dataset.train.truth,
                    strict=True,
                )
            )
            for image, label in zip(found.val.images, found.val.labels, strict=True):
                assert truth[image.tobytes()] == label


def test_smaller_subsets_are_parts_of_larger_ones_by_class():
    def subset(share):
        return data.load("synthetic", subset=share, label_noise=0.3, limit_test=10)

    small, large = (subset(share) for share in (0.1, 0.5))
    assert (len(small.train), len(large.train)) == (500, 2500)
    np.testing.assert_array_equal(np.bincount(small.train.truth), [50] * 10)
    rows = {image.tobytes() for image in large.train.images}
    assert all(image.tobytes() in rows for image in small.train.images)
    with pytest.raises(UsageError, match=r"subset is 0.0001, but train has 5000 exam"):
        data.load("synthetic", subset=1e-4)


def test_off_is_the_very_data():
    dataset = clean()
    assert with_label_noise(dataset, 0.0) is dataset
    names = {"label_noise": 0.0, "label_noise_over": "all", "label_seed": 3}
    plain = data.load("synthetic", limit_train=40)
    assert data.load("synthetic", limit_train=40, **names).fingerprint == (
        plain.fingerprint
    )
    noisy = with_label_noise(dataset, 0.5)
    unknown = Dataset(
        noisy.name,
        noisy.classes,
        Split(noisy.train.images, noisy.train.labels),
        noisy.test,
    )
    assert len({d.fingerprint for d in (dataset, noisy, unknown)}) == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"label_noise": 1.5}, "label_noise = 1.5: must be at least 0 and at most 1"),
        ({"label_noise_over": "most"}, "label_noise_over = 'most': must be others or"),
        ({"subset": 0.0}, "subset = 0.0: must be above 0 and at most 1"),
        (
            {"subset": 0.5, "limit_train": 10},
            "give the share of the training images or",
        ),
        (
            {"random_labels": True, "label_noise": 0.1},
            "label_noise = 0.1: must be 0 with random_labels",
        ),
    ],
)
def test_bad_values_are_refused_by_name(values, message):
    with pytest.raises(UsageError, match=message):
        TrainConfig.from_dict(values)
    with pytest.raises(UsageError, match="label_noise is 2"):
        with_label_noise(clean(), 2.0)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """A run on labels half of which are drawn, and what training printed."""
    out = tmp_path_factory.mktemp("results")
    result = run_cli(
        *(*TINY, "--label-noise", 0.5, "--loss", "ce", "--epochs", 2, "--out", out)
    )
    assert result.exit_code == 0, result.stderr
    return storage.latest_run(out), result.stdout


def test_a_run_logs_accuracy_on_given_and_on_true_labels(noisy):
    run, printed = noisy
    config = TrainConfig.from_dict(run.config())
    dataset = runs.load_data(config)
    train = dataset.train
    assert 8 <= train.wrong <= 32
    assert f"{train.wrong} ({2.5 * train.wrong:.1f} %) train labels wrong" in printed
    loaded = runs.load_model(run)
    logits = predict(
        loaded.model, loaded.state, train.images, config, mesh=make_mesh(1)
    )
    guesses, row = logits.argmax(1), run.log()[-1]
    assert row["acc_tr"] == (guesses == train.labels).mean()
    clean = data.load("synthetic", limit_train=40).train
    assert row["acc_tr_true"] == (guesses == clean.labels).mean()


def test_measures_say_which_labels_they_used(noisy):
    run, _ = noisy
    trained = measurements.open_network(run.path)
    assert trained.same_data
    options = measurements.SharpnessOptions(samples=0)
    given = trained.examples("train", options, make_mesh(1))
    np.testing.assert_array_equal(
        np.sort(given.labels), np.sort(trained.dataset.train.labels)
    )
    command = "sharpness", run.path, "--measures", "trace", "--samples", 8
    result = run_cli(*command, "--batch-size", 4, "--devices", 1)
    assert result.exit_code == 0, result.stderr
    wrong = trained.dataset.train.wrong
    said = " ".join(result.stdout.split())
    assert f"by the labels that are given, of which {wrong} (" in said
    (row,) = read_wide(run.path / "sharpness.tsv")
    assert row["labels"] == "given"
    result = run_cli("eval", run.path, "--split", "train", "--json")
    found = json.loads(result.stdout)
    logged = run.log()[-1]
    assert found["accuracy"]["value"] == logged["acc_tr"]
    assert found["true_accuracy"]["value"] == logged["acc_tr_true"]
    assert (
        "the same, on true labels"
        in run_cli("eval", run.path, "--split", "train").stdout
    )
    assert "true labels" not in run_cli("eval", run.path).stdout


def test_random_labels_are_noise_over_all_classes():
    config = TrainConfig(dataset="synthetic", random_labels=True, limit_test=10)
    drawn = runs.load_data(config)
    noise = data.load(
        "synthetic", label_noise=1.0, label_noise_over="all", limit_test=10
    )
    assert drawn.fingerprint == noise.fingerprint
    assert abs(drawn.train.wrong / 5000 - 0.9) < 4 * np.sqrt(0.09 / 5000)

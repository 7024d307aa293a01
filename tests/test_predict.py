import json

import numpy as np
import pytest
from PIL import Image

from eqcifar import data, exchange, models, runs
from eqcifar.errors import UsageError
from eqcifar.training import (
    TrainConfig,
    evaluate,
    predict,
    probabilities,
)

from .cli_tools import run_cli
from .helpers import random_network, small_dataset

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, size=(32, 32, 3)).astype(np.uint8)


def save_network(path, loss, classes=10):
    config = TrainConfig(arch="resnet8", width=0.25, loss=loss)
    network = random_network(models.create, "resnet8", classes, width=0.25)
    runs.save_model(path, network, config, small_dataset(classes=classes))
    return path


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    return {
        loss: save_network(folder / f"{loss}.safetensors", loss)
        for loss in ("mse", "ce")
    }


@pytest.fixture
def photos(tmp_path):
    """A folder with images of several sizes and kinds, and what is none."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    Image.fromarray(PIXELS).save(folder / "a.png")
    Image.fromarray(PIXELS).resize((301, 200)).save(folder / "more" / "b.JPG")
    Image.fromarray(PIXELS[..., 0]).save(folder / "more" / "c.bmp")
    Image.fromarray(PIXELS).save(folder / ".hidden" / "d.png")
    (folder / "notes.txt").write_text("no image")
    return folder


def test_probabilities_by_another_road():
    logits = np.array([[2.0, -1.0, 0.25], [0.1, 0.2, 0.3]], np.float32)
    cut = np.array([[1.0, 0.0, 0.25], [0.1, 0.2, 0.3]], np.float32)
    assert np.array_equal(probabilities(logits, "mse"), cut)
    powers = np.exp(logits.astype(np.float64))
    softmax = powers / powers.sum(axis=1, keepdims=True)
    for loss in ("ce", lambda logits, target: logits @ target):
        np.testing.assert_allclose(probabilities(logits, loss), softmax, rtol=1e-6)


@pytest.mark.parametrize("loss", ["mse", "ce"])
def test_the_calibration_error_is_of_these_probabilities(loss):
    logits = RNG.normal(0.3, 0.5, size=(300, 4)).astype(np.float32)
    labels = RNG.integers(4, size=300).astype(np.int32)
    confidence = probabilities(logits, loss).max(axis=1)
    correct = logits.argmax(axis=1) == labels
    bins = np.minimum((confidence * 15).astype(int), 14)
    error = sum(
        abs((correct[bins == b] - confidence[bins == b]).sum()) for b in range(15)
    )
    measured = evaluate(logits, labels, loss).calibration_error.plugin
    assert measured == pytest.approx(error / 300, rel=1e-5)


@pytest.mark.parametrize("loss", ["mse", "ce"])
def test_the_command_tells_the_five_largest_outputs(networks, photos, loss):
    result = run_cli("predict", networks[loss], photos / "a.png", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    values = json.loads(result.stdout)
    (image,) = values["images"]
    assert image["image"] == str(photos / "a.png")
    # By way of the arrays, without a file.
    loaded = runs.load_model(networks[loss])
    logits = predict(loaded.model, loaded.state, PIXELS[None], loaded.config)
    order = np.argsort(-logits[0])[:5]
    shares = probabilities(logits, loss)[0]
    assert [guess["name"] for guess in image["top"]] == [f"class {c}" for c in order]
    for key, wanted in (("probability", shares), ("output", logits[0])):
        assert [guess[key] for guess in image["top"]] == [
            float(wanted[c]) for c in order
        ]


def test_a_folder_is_searched_and_printed_as_a_table(networks, photos):
    result = run_cli("predict", networks["mse"], photos, "--top", "2", COLUMNS="200")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = [line.split() for line in result.stdout.splitlines()]
    shown = [line[0] for line in lines if line and line[0].startswith(str(photos))]
    assert shown == [
        str(photos / name) for name in ("a.png", "more/b.JPG", "more/c.bmp")
    ]
    assert result.stdout.count(" %") == 6
    assert "need not sum to 1" in result.stdout
    result = run_cli("predict", networks["ce"], photos)
    assert result.stdout.count(" %") == 15
    assert "sum to 1" not in result.stdout


def test_no_more_classes_than_there_are(tmp_path):
    loaded = runs.load_model(
        save_network(tmp_path / "model.safetensors", "ce", classes=3)
    )
    (guesses,) = exchange.classify(loaded, PIXELS[None])
    assert len(guesses) == 3
    assert sum(guess.probability for guess in guesses) == pytest.approx(1)


def test_an_unreadable_image_does_not_stop_the_others(networks, photos):
    (photos / "broken.png").write_bytes(b"no image")
    half = (photos / "more" / "b.JPG").read_bytes()
    (photos / "half.jpg").write_bytes(half[: len(half) // 2])
    result = run_cli("predict", networks["ce"], photos, "--json")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[0] == (
        f"Warning: cannot read {photos / 'broken.png'}: it is not an image"
    )
    assert "half.jpg: image file is truncated" in result.stderr
    values = json.loads(result.stdout)
    assert len(values["images"]) == 3
    names = [str(photos / name) for name in ("broken.png", "half.jpg")]
    assert values["unreadable"] == names


def test_bad_input_is_one_line(networks, photos, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.png").write_text("no image")
    for path, message in (
        (tmp_path / "empty", "no images in"),
        (tmp_path / "nowhere", "no file or folder"),
        (tmp_path / "x.png", "x.png: it is not an image"),
        (photos / "notes.txt", "notes.txt: it is not an image"),
    ):
        result = run_cli("predict", networks["ce"], path)
        assert (result.exit_code, result.stdout) == (2, "")
        assert message in result.stderr
        assert str(path) in result.stderr
        assert result.stderr.count("\n") == 1
    result = run_cli("predict", tmp_path / "no.safetensors", photos)
    assert result.exit_code == 2


def test_an_image_of_the_right_size_is_not_changed(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "x.png")
    assert np.array_equal(data.read_image(tmp_path / "x.png"), PIXELS)


def test_the_central_square_is_averaged(tmp_path):
    # Each pixel becomes a block of 8 x 8, with something else at both sides.
    large = PIXELS.repeat(8, axis=0).repeat(8, axis=1)
    sides = np.zeros((256, 100, 3), np.uint8)
    Image.fromarray(np.hstack([sides, large, 255 - sides])).save(tmp_path / "x.png")
    smooth = np.asarray(
        Image.fromarray(large).resize((32, 32), Image.Resampling.BICUBIC)
    )
    assert np.array_equal(data.read_image(tmp_path / "x.png"), smooth)
    flat = np.full((77, 1000, 3), 93, np.uint8)
    Image.fromarray(flat).save(tmp_path / "flat.png")
    assert np.array_equal(data.read_image(tmp_path / "flat.png", 8), flat[:8, :8])


def test_kinds_of_images(tmp_path):
    def read(image, name="x.png", **kwargs):
        image.save(tmp_path / name, **kwargs)
        return data.read_image(tmp_path / name)

    grey = PIXELS[..., 0]
    as_rgb = np.repeat(grey[..., None], 3, axis=2)
    assert np.array_equal(read(Image.fromarray(grey)), as_rgb)
    # 16-bit greys: 257 times the same, 65535 being white.
    sixteen = Image.fromarray(grey.astype(np.uint16) * 257)
    assert np.array_equal(read(sixteen), as_rgb)
    clear = np.dstack([PIXELS, np.full((32, 32), 254, np.uint8)])
    with pytest.raises(UsageError, match="x.png: it has transparent pixels"):
        read(Image.fromarray(clear))
    opaque = np.dstack([PIXELS, np.full((32, 32), 255, np.uint8)])
    assert np.array_equal(read(Image.fromarray(opaque)), PIXELS)
    palette = Image.fromarray(PIXELS).quantize(64)
    assert np.array_equal(read(palette), np.asarray(palette.convert("RGB")))
    exif = Image.Exif()
    exif[0x0112] = 6  # The camera was turned: show it by a quarter, clockwise.
    turned = read(Image.fromarray(PIXELS), exif=exif)
    assert np.array_equal(turned, np.rot90(PIXELS, -1))
    with pytest.raises(
        UsageError, match="nothing says which RGB its pixels of mode F are"
    ):
        read(Image.fromarray(grey.astype(np.float32)), "x.tif")


def test_a_large_photograph_is_read_and_a_bomb_is_not(tmp_path, monkeypatch):
    Image.fromarray(PIXELS).save(tmp_path / "x.png")
    # Pillow warns of more pixels than that, and refuses more than twice as many.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)
    assert np.array_equal(data.read_image(tmp_path / "x.png"), PIXELS)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(UsageError, match=r"x.png: Image size \(1024 pixels\) exceeds"):
        data.read_image(tmp_path / "x.png")


def test_the_command_says_what_it_assumed(networks, photos):
    opaque = np.dstack([PIXELS, np.full((32, 32), 255, np.uint8)])
    Image.fromarray(opaque).save(photos / "opaque.png")
    opaque[0, 0, 3] = 0
    Image.fromarray(opaque).save(photos / "clear.png")
    result = run_cli("predict", networks["ce"], photos, "--json")
    assert result.exit_code == 1
    warning, note = result.stderr.splitlines()
    assert "clear.png: it has transparent pixels, and nothing says" in warning
    assert note == "opaque alpha dropped (1 of 4 images)"
    images = {row["image"]: row["top"] for row in json.loads(result.stdout)["images"]}
    assert images[str(photos / "opaque.png")] == images[str(photos / "a.png")]

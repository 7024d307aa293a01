import dataclasses
import difflib
import json
import math
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from .errors import UsageError

_LOSSES = "mse", "ce"


def _option(default: Any, panel: str, help: str, **more: Any) -> Any:
    metadata = {"panel": panel, "help": help, **more}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides the numbers of a training run.

    The defaults are the default recipe; `recipes` has others by name. Each field is
    also an option of `eqcifar train` and a key of a `--config` file; `metadata`
    carries its help.

    **Raises:**

    `UsageError` naming the field, its value and what is allowed.
    """

    arch: str = _option("resnet18", "Model", "Architecture; `eqcifar archs` lists all.")
    width: float = _option(1.0, "Model", "Multiplies the number of channels.")
    dropout: float = _option(
        0.0, "Model", "Dropout probability inside Wide ResNet blocks."
    )
    init: Literal["he", "lecun"] = _option(
        "he",
        "Model",
        "Initial weights: variance 2 / fan-in and 1 / fan-in of the classifier, or "
        "truncated normal of 1 / fan-in throughout.",
    )
    whiten: bool = _option(
        False,
        "Model",
        "Start the first convolution from filters that whiten the training images' "
        "patches.",
    )

    dataset: str = _option(
        "cifar10",
        "Data",
        "cifar10, cifar100, synthetic, synthetic100, a local folder, or org/name on "
        "the Hugging Face hub.",
    )
    val_size: int = _option(
        0, "Data", "Training images held out for validation, stratified by class."
    )
    limit_train: int = _option(0, "Data", "Use this many training images; 0: all.")
    limit_test: int = _option(0, "Data", "Use this many test images; 0: all.")
    augment: bool = _option(
        True, "Data", "Random crops after reflect-padding, and flips."
    )
    crop_pad: int = _option(
        4, "Data", "Pixels of padding beyond each edge before a crop."
    )
    flip: Literal["random", "alternating"] = _option(
        "random",
        "Data",
        "Draw each epoch's flips, or only the first's and then alternate each image.",
    )
    cutout: int = _option(
        0,
        "Data",
        "Side of a square of each training image, anywhere, that takes the value of "
        "`--mean`; 0: none.",
    )
    mixup: float = _option(
        0.0, "Data", "Beta(b, b) parameter of MixUp; 0: none, 0.4 in the table."
    )
    mixup_group: int = _option(
        0,
        "Data",
        "Examples whose MixUp partners are they themselves in reverse order, with the "
        "same weights in every group; 0: the whole batch.",
    )
    mean: tuple[float, float, float] = _option(
        (0.5, 0.5, 0.5), "Data", "Subtracted from each channel, pixels in [0, 1]."
    )
    std: tuple[float, float, float] = _option(
        (0.25, 0.25, 0.25), "Data", "Divides each channel after the mean."
    )

    epochs: int = _option(200, "Optimisation", "Passes over the training set.")
    batch_size: int = _option(
        1000, "Optimisation", "Examples a step, over all devices together."
    )
    lr: float = _option(0.8, "Optimisation", "Peak learning rate.")
    warmup: float = _option(
        0.1, "Optimisation", "Fraction of the steps with linear warm-up."
    )
    schedule: Literal["cosine", "linear"] = _option(
        "cosine",
        "Optimisation",
        "How the learning rate falls to 0 after warm-up.",
    )
    bn_bias_lr: float = _option(
        1.0,
        "Optimisation",
        "Multiplies the learning rate of BatchNorm's biases, but not their L2.",
    )
    momentum: float = _option(0.9, "Optimisation", "Nesterov momentum.")
    muon_lr: float = _option(
        0.0,
        "Optimisation",
        "Peak learning rate of Muon, which then moves the filters of all convolutions "
        "but those that take colours; 0: SGD for all.",
    )
    muon_momentum: float = _option(0.6, "Optimisation", "Nesterov momentum of Muon.")
    weight_decay: float = _option(
        5e-4,
        "Optimisation",
        "L2 coefficient on all parameters that SGD moves, before clipping.",
    )
    decay_bias: bool = _option(
        True,
        "Optimisation",
        "L2 on biases and BatchNorm's parameters too, not only on weights.",
    )
    clip_norm: float = _option(
        5.0, "Optimisation", "Global norm at which gradients are clipped; 0: never."
    )
    loss: str = _option(
        "mse",
        "Optimisation",
        "0.5 ||f - onehot||^2, or softmax cross-entropy.",
        choices=_LOSSES,
    )
    label_smoothing: float = _option(
        0.0, "Optimisation", "Probability moved from the label to all classes."
    )
    ema: float = _option(
        0.0,
        "Optimisation",
        "Share of itself that a moving average of the weights keeps each step; it is "
        "what is evaluated and saved. 0: none.",
    )
    bn_group: int = _option(
        0,
        "Optimisation",
        "Examples that share batch statistics; 0: the whole batch.",
    )
    precision: Literal["f32", "bf16"] = _option(
        "f32", "Optimisation", "Of the network; parameters and statistics stay float32."
    )
    eval_every: int = _option(
        1, "Optimisation", "Epochs between evaluations; the last is always evaluated."
    )
    test_flip: bool = _option(
        False,
        "Optimisation",
        "Test the mean of the logits of each image and its mirror image.",
    )
    test_crop: bool = _option(
        False,
        "Optimisation",
        "Test the mean of the logits of each image and two shifted by a pixel.",
    )
    seed: int = _option(
        0, "Optimisation", "Of initial weights, data order and augmentation."
    )

    def __post_init__(self):
        positive = "width", "epochs", "batch_size", "lr", "bn_bias_lr", "eval_every"
        natural = "val_size", "limit_train", "limit_test", "seed"
        non_negative = (
            *natural,
            "crop_pad",
            "cutout",
            "mixup",
            "mixup_group",
            "bn_group",
            "muon_lr",
            "weight_decay",
            "clip_norm",
        )
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            numbers = value if isinstance(value, tuple) else (value,)
            finite = all(math.isfinite(x) for x in numbers if isinstance(x, float))
            _require(self, field.name, finite, "finite")
            if get_origin(field.type) is Literal:
                allowed = get_args(field.type)
                _require(self, field.name, value in allowed, " or ".join(allowed))
        for name in positive:
            _require(self, name, getattr(self, name) > 0, "greater than 0")
        for name in non_negative:
            _require(self, name, getattr(self, name) >= 0, "0 or greater")
        # Of a larger one JAX takes the lower 32 bits, where it computes in float32.
        _require(self, "seed", self.seed < 2**32, "below 2**32")
        for name in ("dropout", "momentum", "muon_momentum", "label_smoothing", "ema"):
            _require(self, name, 0 <= getattr(self, name) < 1, "at least 0, below 1")
        _require(self, "warmup", 0 <= self.warmup <= 1, "between 0 and 1")
        _require(self, "std", min(self.std) > 0, "greater than 0 in each channel")
        known = not self.has_own_loss or "." in self.loss
        _require(self, "loss", known, " or ".join(_LOSSES))
        for name in ("bn_group", "mixup_group"):
            group = getattr(self, name)
            divides = group == 0 or self.batch_size % group == 0
            allowed = f"0 or a divisor of the batch size, {self.batch_size}"
            _require(self, name, divides, allowed)

    @property
    def has_own_loss(self) -> bool:
        """Whether `loss` is `module.name` of a function that only Python can give."""
        return self.loss not in _LOSSES

    @property
    def has_own_arch(self) -> bool:
        """Whether `arch` is `module.name` of a class that only Python can make."""
        return "." in self.arch

    def one_view(self) -> "TrainConfig":
        """The same without test-time augmentation, which is not for training images."""
        return dataclasses.replace(self, test_flip=False, test_crop=False)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainConfig":
        """Build a configuration from a mapping, as read from TOML or JSON.

        **Raises:**

        `UsageError` for a key that is not a field, with the nearest field, and for a
        value of another type.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for key in values:
            if key not in fields:
                near = difflib.get_close_matches(key, fields, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise UsageError(f"unknown configuration key {key!r}{hint}")
        return cls(
            **{
                key: _convert(key, value, fields[key].default)
                for key, value in values.items()
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready values, the inverse of `from_dict`."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
        }

    def differing(self, values: Mapping[str, Any]) -> list[str]:
        """What keeps `values` from being its fields, a text each."""
        there, here = values, self.to_dict()
        return [
            f"{name} = {there.get(name)!r} there, {here.get(name)!r} here"
            for name in {**here, **there}
            if name not in there or name not in here or there[name] != here[name]
        ]


def read_values(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read names and values that a user wrote, from TOML or, in a `*.json`, from JSON.

    **Raises:**

    `UsageError` with the path and what is wrong.
    """
    path = Path(path)
    kind = "JSON" if path.suffix == ".json" else "TOML"
    try:
        # With or without the mark that editors on Windows begin UTF-8 with.
        text = path.read_text(encoding="utf-8-sig")
        values = json.loads(text) if kind == "JSON" else tomllib.loads(text)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not text in UTF-8: save it as such") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not valid {kind}: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path} does not hold names and values")
    return values


def _require(config: TrainConfig, name: str, holds: bool, allowed: str):
    if not holds:
        raise UsageError(f"{name} = {getattr(config, name)!r}: must be {allowed}")


def _convert(name: str, value: Any, default: Any) -> Any:
    """Bring a value from a file to the type of the field's default, or refuse it."""
    if isinstance(default, tuple):
        if not isinstance(value, list) or len(value) != len(default):
            raise UsageError(f"{name} = {value!r}: must be {len(default)} numbers")
        return tuple(_convert(name, x, y) for x, y in zip(value, default, strict=True))
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if type(value) is not type(default):
        raise UsageError(
            f"{name} = {value!r}: must be of type {type(default).__name__}"
        )
    return value


def loss_title(name: str, label_smoothing: float) -> str:
    """What tables and plots call a loss, and its target where that is not one-hot."""
    smoothed = f", labels smoothed by {label_smoothing:g}" if label_smoothing else ""
    return f"{name} loss{smoothed}"

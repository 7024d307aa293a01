"""What a run is made of: four parts, and the whole that has the fields of all."""

import ast
import dataclasses
import json
import os
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from .errors import UsageError
from .options import Options, option


def keys_of(file: str, dictionary: str) -> tuple[str, ...]:
    """The keys of a dictionary in a file of the package, without an import of JAX."""
    tree = ast.parse((Path(__file__).parent / file).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == dictionary:
            return tuple(map(ast.literal_eval, getattr(node.value, "keys", ())))
    raise KeyError(f"{file} has no {dictionary}")


# What a name of these fields stands for is a line of one dictionary. A name with a dot
# is `module.name` of a part that only Python can give.
PARTS = {
    "loss": keys_of("losses.py", "LOSSES"),
    "optimiser": keys_of("training/_optimisers.py", "OPTIMISERS"),
    "schedule": keys_of("training/_schedules.py", "SCHEDULES"),
}
INITS = "he", "lecun"
# Short names; a folder or an id of the hub is a name too.
DATASETS = keys_of("data/_load.py", "DATASETS")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig(Options):
    """The network."""

    panel = "Model"

    arch: str = option(
        "resnet18", "Architecture; `eqcifar archs` lists all.", short="-a"
    )
    width: float = option(1.0, "Multiplies the number of channels.", above=0)
    dropout: float = option(
        0.0, "Dropout probability inside Wide ResNet blocks.", at_least=0, below=1
    )
    shortcut: Literal["own", "padding", "centred", "projection"] = option(
        "own",
        "Of a ResNet's blocks that change the shape: the architecture's own; channels "
        "of zeros at the end (option A, own of resnet20 to resnet110) or at both ends; "
        "or a 1x1 convolution (option B, own of the others).",
    )
    activation: Literal["relu", "gelu", "tanh", "elu", "silu"] = option(
        "relu", "After each normalisation, of networks that leave the choice."
    )
    norm: Literal["batch", "group", "layer", "none"] = option(
        "batch",
        "After each convolution: BatchNorm; of each example over up to 32 groups of "
        "channels or over all; or none, and convolutions have biases.",
    )
    init: str = option(
        "he",
        "Initial weights: he, variance 2 / fan-in and 1 / fan-in of the classifier; "
        "lecun, truncated normal of 1 / fan-in throughout; or those of a run, of a "
        "model file or of hf://ORG/NAME, with their running statistics.",
        metavar="he|lecun|RUN|FILE",
    )
    whiten: bool = option(
        False,
        "Start the first convolution from filters that whiten the training images' "
        "patches.",
    )

    @property
    def starts_from_file(self) -> bool:
        """Whether `init` is a run or a model file."""
        return self.init not in INITS

    @property
    def has_own_arch(self) -> bool:
        """Whether `arch` is `module.name` of a class that only Python can make."""
        return "." in self.arch

    @property
    def variant(self) -> dict[str, Any]:
        """What `eqcifar.models.create` takes beside the name and initial weights."""
        names = "width", "dropout", "shortcut", "activation", "norm"
        return {name: getattr(self, name) for name in names}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig(Options):
    """The images, and how they are changed before the network sees them."""

    panel = "Data"

    dataset: str = option(
        "cifar10",
        f"{', '.join(DATASETS)}, a local folder, or org/name on the Hugging Face hub.",
        short="-d",
    )
    val_size: int = option(
        0, "Training images held out for validation, stratified by class.", at_least=0
    )
    limit_train: int = option(0, "Use this many training images; 0: all.", at_least=0)
    limit_test: int = option(0, "Use this many test images; 0: all.", at_least=0)
    subset: float = option(
        1.0,
        "Use that share of the training images, stratified by class; the images of a "
        "smaller share are among those of a larger one.",
        above=0,
        at_most=1,
    )
    label_noise: float = option(
        0.0,
        "Probability that a training image has a label drawn in place of its own.",
        at_least=0,
        at_most=1,
    )
    label_noise_over: Literal["others", "all"] = option(
        "others",
        "Draw it from the other classes, or from all, the image's own among them.",
    )
    random_labels: bool = option(
        False,
        "Draw every training label from all classes: `--label-noise 1 "
        "--label-noise-over all`.",
    )
    label_seed: int = option(
        0,
        "Of the labels that are drawn, which all `--seed`s share.",
        at_least=0,
        below=2**32,
    )
    augment: bool = option(True, "Random crops after reflect-padding, and flips.")
    crop_pad: int = option(
        4, "Pixels of padding beyond each edge before a crop.", at_least=0
    )
    flip: Literal["random", "alternating"] = option(
        "random",
        "Draw each epoch's flips, or only the first's and then alternate each image.",
    )
    cutout: int = option(
        0,
        "Side of a square of each training image, anywhere, that takes the value of "
        "`--mean`; 0: none.",
        at_least=0,
    )
    erase: float = option(
        0.0,
        "Probability of Random Erasing: a rectangle of 2 to 40 % of the training image "
        "takes random pixels.",
        at_least=0,
        at_most=1,
    )
    mixup: float = option(
        0.0,
        "Beta(b, b) parameter of MixUp; 0: none, 0.4 in the table.",
        at_least=0,
    )
    mixup_group: int = option(
        0,
        "Examples whose MixUp partners are they themselves in reverse order, with the "
        "same weights in every group; 0: the whole batch.",
        at_least=0,
        divides="batch_size",
    )
    cutmix: float = option(
        0.0,
        "Beta(a, a) parameter of CutMix: a box of another training image, and that "
        "share of its label; 0: none, 1 in the paper.",
        at_least=0,
    )
    cutmix_probability: float = option(
        0.5, "Probability that CutMix changes an image.", above=0, at_most=1
    )
    mean: tuple[float, float, float] = option(
        (0.5, 0.5, 0.5),
        "Subtracted from each channel, pixels in [0, 1].",
        metavar="R G B",
    )
    std: tuple[float, float, float] = option(
        (0.25, 0.25, 0.25),
        "Divides each channel after the mean.",
        above=0,
        metavar="R G B",
    )

    def __post_init__(self):
        super().__post_init__()
        if self.subset < 1 and self.limit_train:
            raise UsageError(
                f"subset = {self.subset:g} and limit_train = {self.limit_train}: give "
                "the share of the training images or their number, not both"
            )
        if self.random_labels and self.label_noise:
            raise UsageError(
                f"label_noise = {self.label_noise:g}: must be 0 with random_labels, "
                "which draws all labels"
            )

    @property
    def drawn_labels(self) -> tuple[float, str, int]:
        """Share, choice and seed of drawn labels, see `data.with_label_noise`."""
        if self.random_labels:
            return 1.0, "all", self.label_seed
        return self.label_noise, self.label_noise_over, self.label_seed


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimisationConfig(Options):
    """The loss, and how it is made small."""

    panel = "Optimisation"

    epochs: int = option(200, "Passes over the training set.", above=0)
    until_loss: float = option(
        0.0,
        "Stop after an epoch whose training loss, the column `loss`, is that or less; "
        "the schedule is that of `--epochs`. 0: never.",
        at_least=0,
    )
    batch_size: int = option(
        1000, "Examples a step, over all devices together.", above=0, short="-b"
    )
    lr: float = option(0.8, "Peak learning rate.", above=0)
    warmup: float = option(
        0.1, "Fraction of the steps with linear warm-up.", at_least=0, at_most=1
    )
    schedule: str = option(
        "cosine",
        "The learning rate after warm-up: it falls to 0 as a cosine or on a line, "
        "stays, falls by 10 after half and three quarters of the steps, or stays and "
        "then falls on a line over the last fifth.",
        choices=PARTS["schedule"],
    )
    optimiser: str = option(
        "sgd",
        "SGD with momentum; Muon for filters, see `--muon-lr`; or AdamW.",
        choices=PARTS["optimiser"],
    )
    bn_bias_lr: float = option(
        1.0,
        "Multiplies the learning rate of BatchNorm's biases, but not their L2.",
        above=0,
    )
    momentum: float = option(
        0.9, "Momentum of SGD, 0: none; AdamW's beta 1.", at_least=0, below=1
    )
    nesterov: bool = option(True, "Nesterov's momentum in SGD, or the heavy ball's.")
    beta2: float = option(
        0.999,
        "AdamW's beta 2: what its mean of squared gradients keeps each step.",
        at_least=0,
        below=1,
    )
    muon_lr: float = option(
        0.0,
        "Peak learning rate of `--optimiser muon` for the filters of all convolutions "
        "but those that take colours; SGD moves the rest.",
        at_least=0,
    )
    muon_momentum: float = option(
        0.6, "Nesterov momentum of Muon.", at_least=0, below=1
    )
    weight_decay: float = option(
        5e-4,
        "SGD: L2 coefficient, before clipping; not of filters that Muon moves. AdamW: "
        "decoupled, times the learning rate.",
        at_least=0,
    )
    decay_bias: bool = option(
        True, "Decay of biases and BatchNorm's parameters too, not only of weights."
    )
    clip_norm: float = option(
        5.0, "Global norm at which gradients are clipped; 0: never.", at_least=0
    )
    loss: str = option(
        "mse", "0.5 ||f - onehot||^2, or softmax cross-entropy.", choices=PARTS["loss"]
    )
    label_smoothing: float = option(
        0.0, "Probability moved from the label to all classes.", at_least=0, below=1
    )
    sam: float = option(
        0.0,
        "Radius of sharpness-aware minimisation: take the gradient at that distance, "
        "where the loss is worst; 0: none.",
        at_least=0,
    )
    sam_adaptive: bool = option(
        False,
        "Measure the radius of `--sam` relative to each weight, as in ASAM.",
    )
    sam_m: int = option(
        0,
        "Examples that have a worst direction of their own, of `--sam`; 0: the whole "
        "batch.",
        at_least=0,
        divides="batch_size",
    )
    ema: float = option(
        0.0,
        "Share of itself that a moving average of the weights keeps each step; it is "
        "what is evaluated and saved. 0: none.",
        at_least=0,
        below=1,
    )
    swa_from: int = option(
        0,
        "Evaluate and save the mean of the weights after this epoch and all later "
        "ones, with BatchNorm's statistics computed anew. 0: none.",
        at_least=0,
        metavar="EPOCH",
    )
    bn_group: int = option(
        0,
        "Examples that share batch statistics; 0: the whole batch.",
        at_least=0,
        divides="batch_size",
    )
    precision: Literal["f32", "bf16"] = option(
        "f32", "Of the network; parameters and statistics stay float32."
    )
    # Of a larger one JAX takes the lower 32 bits, where it computes in float32.
    seed: int = option(
        0,
        "Of initial weights, data order and augmentation.",
        at_least=0,
        below=2**32,
    )

    def __post_init__(self):
        super().__post_init__()
        if self.optimiser == "muon" and not self.muon_lr:
            raise UsageError(
                "muon_lr = 0: must be greater than 0 if the optimiser is muon, such as "
                "0.08"
            )
        if self.optimiser != "muon" and self.muon_lr:
            raise UsageError(
                f"muon_lr = {self.muon_lr:g}: must be 0 unless the optimiser is muon; "
                f"it is {self.optimiser}"
            )
        if self.swa_from > self.epochs:
            raise UsageError(
                f"swa_from = {self.swa_from}: must be at most the epochs, {self.epochs}"
            )
        if self.swa_from and self.ema:
            raise UsageError(
                f"swa_from = {self.swa_from} and ema = {self.ema:g}: one average of "
                "the weights is evaluated, so give one of them"
            )

    def ends_at(self, epoch: int, loss: float) -> bool:
        """Whether training ends after an epoch, counted from 1, of that mean loss."""
        return epoch >= self.epochs or self.until_loss > 0 and loss <= self.until_loss

    @property
    def has_own_loss(self) -> bool:
        """Whether `loss` is `module.name` of a function that only Python can give."""
        return self.loss not in PARTS["loss"]

    def check_parts(self, given: Iterable[str] = ()):
        """Refuse names of parts that only Python has, unless they are `given`.

        **Raises:**

        `UsageError` with the first of them.
        """
        given = set(given)
        for name, known in PARTS.items():
            value = getattr(self, name)
            if value not in known and name not in given:
                raise UsageError(
                    f"{name} = {value!r}: only Python has it, for "
                    "eqcifar.runs.train_run_with; choose one of " + ", ".join(known)
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig(Options):
    """When the network is evaluated, and how it looks at test images."""

    panel = "Evaluation"

    eval_every: int = option(
        1, "Epochs between evaluations; the last is always evaluated.", above=0
    )
    test_flip: bool = option(
        False, "Test the mean of the logits of each image and its mirror image."
    )
    test_crop: bool = option(
        False, "Test the mean of the logits of each image and two shifted by a pixel."
    )


# The fields of the last come first.
@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig(EvaluationConfig, OptimisationConfig, DataConfig, ModelConfig):
    """Everything that decides the numbers of a training run.

    The defaults are the default recipe; `recipes` has others by name. Each field is
    also an option of `eqcifar train` and a key of a `--config` file.

    **Raises:**

    `UsageError` naming the field, its value and what is allowed.
    """

    def one_view(self) -> "TrainConfig":
        """The same without test-time augmentation, which is not for training images."""
        return dataclasses.replace(self, test_flip=False, test_crop=False)


def _again(options: type[Options], name: str, default: Any = None) -> Any:
    """A field of another class once more, here with a default of its own."""
    (field,) = (each for each in dataclasses.fields(options) if each.name == name)
    default = field.default if default is None else default
    return dataclasses.field(default=default, metadata=field.metadata)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportOptions(Options):
    """What a network is that others have trained.

    Mean and standard deviation are by default those of kuangliu/pytorch-cifar, which
    most use.
    """

    panel = "Network"

    arch: str = _again(ModelConfig, "arch")
    width: float = _again(ModelConfig, "width")
    shortcut: Literal["own", "padding", "centred", "projection"] = _again(
        ModelConfig, "shortcut"
    )
    activation: Literal["relu", "gelu", "tanh", "elu", "silu"] = _again(
        ModelConfig, "activation"
    )
    norm: Literal["batch", "group", "layer", "none"] = _again(ModelConfig, "norm")
    dataset: str = _again(DataConfig, "dataset")
    mean: tuple[float, float, float] = _again(
        DataConfig, "mean", (0.4914, 0.4822, 0.4465)
    )
    std: tuple[float, float, float] = _again(
        DataConfig, "std", (0.2023, 0.1994, 0.2010)
    )
    loss: str = _again(OptimisationConfig, "loss", "ce")
    label_smoothing: float = _again(OptimisationConfig, "label_smoothing")
    seed: int = _again(OptimisationConfig, "seed")

    def config(self) -> TrainConfig:
        """The configuration of a run with such a network."""
        return TrainConfig.from_dict(self.to_dict())


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasurementOptions(Options):
    """What every measurement of a trained network takes.

    MixUp is augmentation, and no part of a measured loss.
    """

    panel = "Measurement"

    samples: int | None = option(
        None,
        "Images drawn at random from each split; 0: all; by default 1000, or all where "
        "there are fewer.",
        at_least=0,
    )
    loss: str | None = option(None, "The run's own by default.", choices=PARTS["loss"])
    one_hot: bool = option(
        False,
        "Take the loss against one-hot labels, even where training smoothed them.",
    )
    batch_size: int = option(
        128, "Images at a time; rounded up to a multiple of the devices.", at_least=1
    )
    memory: float = option(1.0, "GB for per-image gradients, on each device.", above=0)
    seed: int = option(0, "Of images and random vectors.", at_least=0, below=2**32)

    def __post_init__(self):
        super().__post_init__()
        if self.samples == 1:
            raise UsageError(
                "samples = 1: must be 2 or more, for one image tells nothing about the "
                "error; 0 takes all"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SharpnessOptions(MeasurementOptions):
    """How to measure sharpness; each field is also an option of `eqcifar sharpness`.

    Of `probes`, `top`, `rtol` and `target` see `eqcifar.measurements.compute_measure`.
    """

    panel = MeasurementOptions.panel

    probes: int = option(
        2, "Random vectors an image; 0: none, exact and dearer.", at_least=0
    )
    top: int = option(
        5, "How many eigenvalues, of the measure eigenvalues.", at_least=1
    )
    rtol: float | None = option(
        None,
        "Stop traces when half the 95 % interval is that part of the value.",
        above=0,
    )
    target: Literal["split", "population"] = option(
        "split", "Whose mean is meant: the split's, or of where it is from."
    )
    batch_statistics: bool = option(
        False, "Normalise by the batch, as in training; not for ntk, unit, gram."
    )
    only: str = option(
        "",
        "Of these parameters alone, the others held fixed: a pattern of their names, "
        "such as 'blocks.3.*'; several with commas.",
        metavar="NAMES",
    )

    @property
    def patterns(self) -> tuple[str, ...]:
        """Those of the names of parameters; none for all."""
        return tuple(name.strip() for name in self.only.split(",") if name.strip())

    @property
    def of_what(self) -> str:
        """What tables and pictures add to the name of a network."""
        return f", only {', '.join(self.patterns)}" if self.patterns else ""

    def __post_init__(self):
        super().__post_init__()
        if not re.fullmatch(r"[\w.*?\[\]!, -]*", self.only):
            raise UsageError(
                f"only = {self.only!r}: must be names of parameters, with * for any "
                "letters"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareOptions(MeasurementOptions):
    """How to compare two splits; each field is also an option of `eqcifar compare`."""

    panel = MeasurementOptions.panel

    probes: int = option(10, "Random vectors that all matrices share.", at_least=3)
    eigenvectors: int = option(
        10, "Compare the spaces of so many; 0: none.", at_least=0
    )

    def of_a_split(self) -> SharpnessOptions:
        """How each of the two is measured."""
        values = self.to_dict()
        del values["eigenvectors"]
        return SharpnessOptions(**values)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConnectOptions(Options):
    """How two networks are connected; each field is an option of `eqcifar connect`."""

    panel = "Measurement"

    split: str = option("train,test", "train, test or val; several with commas.")
    points: int = option(11, "On the line, both ends among them.", at_least=3)
    align: Literal["none", "weights"] = option(
        "none",
        "Permute the channels of the second network first, so that its weights are "
        "near the first's.",
    )
    samples: int | None = _again(MeasurementOptions, "samples")
    loss: str | None = _again(MeasurementOptions, "loss")
    one_hot: bool = _again(MeasurementOptions, "one_hot")
    batch_size: int = option(
        500, "Images whose statistics are taken at a time.", at_least=1
    )
    seed: int = option(0, "Of the images.", at_least=0, below=2**32)

    def of_a_split(self) -> SharpnessOptions:
        """How the images of a split are drawn, and the loss."""
        names = "samples", "loss", "one_hot", "batch_size", "seed"
        return SharpnessOptions(**{name: getattr(self, name) for name in names})


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


def loss_title(name: str, label_smoothing: float) -> str:
    """What tables and plots call a loss, and its target where that is not one-hot."""
    smoothed = f", labels smoothed by {label_smoothing:g}" if label_smoothing else ""
    return f"{name} loss{smoothed}"

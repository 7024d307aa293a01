import dataclasses
import hashlib
import os
from functools import partial
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from .. import data
from ..config import TrainConfig
from ..data import Dataset
from ..errors import RunError, UsageError
from ..runs import data_of, load_model, named_arrays
from ..sharpness import Examples, Loss, NamedLoss, Network
from ..storage import explain_no_network
from ..training import Model

_DEFAULT_SAMPLES = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class SharpnessOptions:
    """How to measure sharpness.

    - `samples`: images drawn at random from a split; 0: all; by default 1000, or all
        where there are fewer.
    - `probes`, `top`, `rtol`, `target`: see `eqcifar.sharpness.measure`.
    - `loss`: by default the run's own.
    - `one_hot`: take it against one-hot labels, even where training smoothed them.
        MixUp is augmentation, and no part of a measured loss.
    - `batch_size`: images at a time; rounded up to a multiple of the devices.
    - `batch_statistics`: normalise each batch by itself, as in training.
    - `memory`: GB for per-example gradients, on each device.
    - `seed`: of the sample and the probes.
    """

    samples: int | None = None
    probes: int = 2
    top: int = 5
    rtol: float | None = None
    loss: Literal["mse", "ce"] | None = None
    one_hot: bool = False
    target: Literal["split", "population"] = "split"
    batch_size: int = 128
    batch_statistics: bool = False
    memory: float = 1.0
    seed: int = 0

    def __post_init__(self):
        _require(self.samples is None or self.samples >= 0, "samples", "0 or more")
        _require(
            self.samples != 1,
            "samples",
            "2 or more: one image tells nothing about the error; 0 takes all",
        )
        _require(self.probes >= 0, "probes", "0 or more")
        _require(self.top >= 1, "top", "1 or more")
        _require(self.rtol is None or self.rtol > 0, "rtol", "greater than 0")
        _require(self.batch_size >= 1, "batch_size", "1 or more")
        _require(self.memory > 0, "memory", "greater than 0")
        _require(0 <= self.seed < 2**32, "seed", "0 or more, and below 2**32")


def _require(holds: bool, name: str, allowed: str):
    if not holds:
        raise UsageError(f"{name.replace('_', '-')} must be {allowed}")


@dataclasses.dataclass(frozen=True)
class MeasuredNetwork:
    """A trained network and the data to measure it on.

    - `table`: where its measures are kept: `sharpness.tsv` in the folder of a run,
        and beside any other file one that is named after it.
    - `digest`: of the network's file.
    - `same_data`: whether the images are those of its training.
    """

    path: Path
    table: Path
    model: Any
    state: Any
    config: TrainConfig
    dataset: Dataset
    step: int
    digest: str
    same_data: bool

    def loss_name(self, options: SharpnessOptions) -> str:
        """The name of the loss that is measured."""
        return options.loss or self.config.loss

    def label_smoothing(self, options: SharpnessOptions) -> float:
        """The smoothing of the labels that the loss is measured against."""
        return 0.0 if options.one_hot else self.config.label_smoothing

    def loss(self, options: SharpnessOptions) -> str | Loss:
        """The loss that is measured: that of training, unless options say otherwise.

        Only a name for a function of one's own, which the file does not hold.
        """
        name = self.loss_name(options)
        if options.loss is None and self.config.has_own_loss:
            return name
        return NamedLoss(name, self.label_smoothing(options))

    def network(self, options: SharpnessOptions) -> Network:
        """The network as a function of its parameters."""
        if options.batch_statistics and self.config.dropout:
            raise UsageError(
                "with dropout, the loss in training mode is random: measure this "
                "network in inference mode"
            )
        return Network(
            self.model, self.state, batch_statistics=options.batch_statistics
        )

    def examples(self, split: str, options: SharpnessOptions, mesh: Mesh) -> Examples:
        """The images of a split that are measured, in random order."""
        splits = self.dataset.splits
        if split not in splits:
            raise UsageError(f"no {split} split: there are {', '.join(splits)}")
        images, labels = splits[split].images, splits[split].labels
        count = options.samples or len(labels)
        if options.samples is None:
            count = min(_DEFAULT_SAMPLES, len(labels))
        if count > len(labels):
            raise UsageError(
                f"{count} samples asked for, but the {split} split has {len(labels)} "
                "images: ask for fewer, or for 0 to take all"
            )
        size = -(-min(options.batch_size, count) // mesh.size) * mesh.size
        if options.batch_statistics:
            count = max(count - count % size, size)
        sharding = NamedSharding(mesh, PartitionSpec("data"))
        spread = partial(jax.device_put, device=sharding)
        normalise = partial(data.normalise, mean=self.config.mean, std=self.config.std)
        return Examples(
            images,
            labels,
            prepare=normalise,
            place=jnp.asarray if mesh.size == 1 else spread,
            batch_size=size,
            devices=mesh.size,
        ).sample(count, options.seed)


def open_network(
    path: str | os.PathLike[str],
    like: tuple[Model, eqx.nn.State] | None = None,
    dataset: Dataset | None = None,
) -> MeasuredNetwork:
    """Read a network to measure, and its data.

    **Arguments:**

    - `path`: the folder of a finished run, or a file that `load_model` reads.
    - `like`: as for `load_model`.
    - `dataset`: the data, if `eqcifar.data.load` does not know it.

    **Raises:**

    `UsageError` when there is no trained network, `RunError` when it is damaged or has
    diverged.
    """
    path = Path(path)
    file = path / "model.eqx" if path.is_dir() else path
    if path.is_dir() and not file.exists():
        raise UsageError(explain_no_network(path))
    loaded = load_model(file, like)
    for name, array in named_arrays(loaded.model, loaded.state).items():
        if not np.isfinite(np.asarray(array)).all():
            raise RunError(
                f"{file} has diverged: {name} is not finite, so there is no sharpness "
                "to measure; train again with a lower learning rate"
            )
    config = loaded.config
    dataset = data_of(path, config) if dataset is None else dataset
    of_run = file.stem == "model" and (file.parent / "config.json").exists()
    name = "sharpness.tsv" if of_run else f"{file.stem}.sharpness.tsv"
    return MeasuredNetwork(
        path=path,
        table=file.with_name(name),
        model=loaded.model,
        state=loaded.state,
        config=config,
        dataset=dataset,
        step=int(loaded.header.get("step", 0)),
        digest=hashlib.sha256(file.read_bytes()).hexdigest(),
        same_data=loaded.header.get("data", {}).get("sha256") == dataset.fingerprint,
    )

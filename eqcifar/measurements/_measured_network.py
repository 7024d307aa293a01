import dataclasses
import hashlib
import math
import os
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
from jax.sharding import Mesh

from .. import data, sharpness
from ..config import SharpnessOptions, TrainConfig
from ..data import Dataset
from ..errors import UsageError
from ..losses import LOSSES, AnyLoss, Loss, get_loss
from ..runs import data_of, initial_network, load_model
from ..sharpness import Examples, Network
from ..storage import Run, explain_no_network, locate_run
from ..training import Model, l2_coefficients
from ._choose_examples import choose_examples


@dataclasses.dataclass(frozen=True)
class MeasuredNetwork:
    """A trained network and the data to measure it on.

    - `table`: where its measures are kept: `sharpness.tsv` in the folder of a run,
        and beside any other file one that is named after it.
    - `digest`: of the network's file.
    - `same_data`: whether the images are those of its training.
    - `own_loss`: the loss of training, where only Python has it.
    - `imported`: whether others trained it, by a recipe that its file does not tell.
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
    own_loss: AnyLoss | None = None
    imported: bool = False

    def loss_name(self, options: SharpnessOptions) -> str:
        """The name of the loss that is measured."""
        return options.loss or self.config.loss

    def label_smoothing(self, options: SharpnessOptions) -> float:
        """The smoothing of the labels that the loss is measured against."""
        return 0.0 if options.one_hot else self.config.label_smoothing

    def loss(self, options: SharpnessOptions) -> Loss:
        """The loss that is measured: that of training, unless options say otherwise.

        **Raises:**

        `UsageError` when it is a function of one's own that was not given.
        """
        if options.loss is None and self.own_loss is not None:
            loss = get_loss(self.own_loss)
            return dataclasses.replace(
                loss, label_smoothing=self.label_smoothing(options)
            )
        if options.loss is None and self.config.has_own_loss:
            known = " or ".join(LOSSES)
            raise UsageError(
                f"{self.path} was trained with the loss {self.config.loss}, which only "
                f"Python has: measure by another, --loss {known}, or give the function "
                "to eqcifar.measurements.open_network(..., loss=...)"
            )
        return get_loss(self.loss_name(options), self.label_smoothing(options))

    def network(self, options: SharpnessOptions) -> Network:
        """The network as a function of its parameters."""
        if options.batch_statistics and self.config.dropout:
            raise UsageError(
                "with dropout, the loss in training mode is random: measure this "
                "network in inference mode"
            )
        return Network(
            self.model,
            self.state,
            batch_statistics=options.batch_statistics,
            only=options.patterns,
        )

    def start(self) -> tuple[Any, Any]:
        """The network that training began with, as it was kept or made anew.

        **Raises:**

        `UsageError` where it cannot be had.
        """
        run = Run(self.table.parent)
        kept = run.checkpoint(0)
        if kept.exists():
            found = load_model(kept, (self.model, self.state))
            return found.model, found.state
        of_run = (run.path / "config.json").exists()
        if of_run and run.description().get("imported") or self.config.has_own_arch:
            raise UsageError(
                f"what {self.path} began with is not known: only training by its name, "
                "or with --keep-every, tells the distance from there"
            )
        return initial_network(self.config, self.dataset)

    def penalty(self, options: SharpnessOptions) -> float:
        """The trace that weight decay, as L2, would add; nan where it is not known."""
        if self.imported:
            return math.nan
        network = self.network(options)
        whole = eqx.filter(self.model, eqx.is_inexact_array)
        coefficients = jax.tree.map(
            lambda array, decay: None if array is None else decay,
            network.params,
            l2_coefficients(whole, self.config),
            is_leaf=lambda array: array is None,
        )
        return sharpness.penalty_trace(network, coefficients)

    def examples(self, split: str, options: SharpnessOptions, mesh: Mesh) -> Examples:
        """The images of a split that are measured, in random order."""
        splits = self.dataset.splits
        if split not in splits:
            raise UsageError(f"no {split} split: there are {', '.join(splits)}")
        chosen, config = splits[split], self.config
        normalise = partial(data.normalise, mean=config.mean, std=config.std)
        return choose_examples(
            chosen.images, chosen.labels, normalise, options, mesh, split
        )


def open_network(
    path: str | os.PathLike[str],
    like: tuple[Model, eqx.nn.State] | None = None,
    dataset: Dataset | None = None,
    loss: AnyLoss | None = None,
) -> MeasuredNetwork:
    """Read a network to measure, and its data.

    **Arguments:**

    - `path`: the folder of a finished run, or a file that `load_model` reads, or a run
        on the hub.
    - `like`: as for `load_model`.
    - `dataset`: the data, if `eqcifar.data.load` does not know it.
    - `loss`: that of its training, if it was a function of one's own.

    **Raises:**

    `UsageError` when there is no trained network, and for a `loss` of another name than
    that of its training; `RunError` when it is damaged or has
    diverged.
    """
    path = locate_run(path)
    file = path / "model.safetensors" if path.is_dir() else path
    if path.is_dir() and not file.exists():
        raise UsageError(explain_no_network(path))
    loaded = load_model(file, like)
    config = loaded.config
    if loss is not None and get_loss(loss).name != config.loss:
        raise UsageError(
            f"{path} was trained with the loss {config.loss}, and not with "
            f"{get_loss(loss).name}: give that function, or SharpnessOptions(loss=...) "
            f"to measure by {' or '.join(LOSSES)}"
        )
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
        own_loss=loss,
        imported="imported" in loaded.header,
        same_data=loaded.header.get("data", {}).get("sha256") == dataset.fingerprint,
    )

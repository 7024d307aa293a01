import dataclasses
import os
import warnings
from collections.abc import Callable

from .. import data
from ..config import TrainConfig
from ..data import Dataset
from ..errors import UsageError
from ..storage import Run, locate_run
from ..training import Evaluation, Interval, evaluate, predict
from ._checkpoints import load_model
from ._description import data_of


@dataclasses.dataclass(frozen=True)
class RunEvaluation:
    """How a trained network does on a split, and what that is of.

    - `config`: of the run that trained it.
    - `dataset`: whose split it is; `same_data` where it trained on that.
    - `loss_name`, `label_smoothing`: the loss that is measured.
    - `evaluation`: the numbers.
    - `true_accuracy`: on the true labels, where some of the split's are drawn.
    """

    config: TrainConfig
    dataset: Dataset
    same_data: bool
    split: str
    loss_name: str
    label_smoothing: float
    evaluation: Evaluation
    true_accuracy: Interval | None


def evaluate_run(
    path: str | os.PathLike[str],
    *,
    split: str = "test",
    dataset: str | None = None,
    loss: str | None = None,
    one_hot: bool = False,
    warn: Callable[[str], None] = warnings.warn,
) -> RunEvaluation:
    """Measure the network of a run on every image of a split.

    **Arguments:**

    - `path`: the folder of a run, or a file of its network.
    - `split`: "test", "train", or "val" where the run held out images.
    - `dataset`: other data of as many classes, by its name; by default the run's own.
    - `loss`: "mse" or "ce"; by default the run's own.
    - `one_hot`: take it against one-hot labels, even where training smoothed them.
    - `warn`: called with a line about what is odd.

    **Raises:**

    `UsageError` for data of other classes, and for a split that there is not;
    `UsageError` and `RunError` as `load_model` and `eqcifar.data.load`.
    """
    path = locate_run(path)
    loaded = load_model(path)
    config = loaded.config
    if Run(path).status().get("state") not in ("done", "unknown"):
        step = loaded.header["step"]
        warn(f"training of {path} is not finished: its network of step {step}")
    own = dataset is None
    chosen = data_of(path, config) if dataset is None else data.load(dataset)
    same_data = chosen.fingerprint == loaded.header["data"]["sha256"]
    if own and not same_data:
        warn(f"{chosen.name} is not the data that {path} was trained on")
    if len(chosen.classes) != len(loaded.classes):
        raise UsageError(
            f"{chosen.name} has {len(chosen.classes)} classes, but the network was "
            f"trained for {len(loaded.classes)}: choose data with as many"
        )
    if split not in chosen.splits:
        raise UsageError(
            f"there is no {split} split: the run held out no images (--val-size was "
            f"{config.val_size}); choose --split test or train"
        )
    part = chosen.splits[split]
    seen = config.one_view() if split == "train" and own else config
    logits = predict(loaded.model, loaded.state, part.images, seen)
    name = loss or config.loss
    smoothing = 0.0 if one_hot else config.label_smoothing
    measured = evaluate(logits, part.labels, name, label_smoothing=smoothing)
    true = None
    if part.true_labels is not None:
        true = evaluate(logits, part.truth, name).accuracy
    what = chosen, same_data, split, name, smoothing
    return RunEvaluation(config, *what, measured, true)

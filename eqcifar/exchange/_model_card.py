import dataclasses
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml
from scipy.stats import binomtest

from ..config import TrainConfig
from ..data import DATASETS
from ..fields import format_estimate
from ..losses import LOSSES
from ..measures import meaning
from ..results import parse_column
from ..runs import LoadedModel, named_arrays
from ..storage import Run, read_measures
from ..training import steps_per_epoch
from ._pytorch_loader import loader
from ._pytorch_names import NAMINGS, names_in

_CARD = """\
---
{metadata}---

# {arch} on {title}

- **Network:** `{arch}`, {numbers:,} numbers in {tensors} tensors, running statistics of
  BatchNorm included.
- **Data:** `{data}`{synthetic}, SHA-256 `{sha256}`.
{training}
{results}- **Input:** RGB images of 32 x 32 pixels, as 3 x 32 x 32 numbers in [0, 1]; by
  channel, ({mean}) is subtracted before they are divided by ({std}).
- **Output:** a number for each class. Probabilities are {probabilities}.
- **Classes,** in order: {classes}.
{sharpness}
## Use

{use}

## Options of `eqcifar train` that are not the default

| option | value | default |
|---|---|---|
{options}

## Where it was trained

{environment}
"""


_TENSORS = """

Other frameworks can read the tensors. As in PyTorch, convolutions are stored as (out,
in, height, width) and linear layers as (out, in):

```python
from safetensors.torch import load_file

tensors = load_file("model.safetensors")
```"""


_USE_IN_PYTORCH = """\
A state dict of PyTorch, by the names of {source}: into a network of that code,

```python
from safetensors.torch import load_file

net.load_state_dict(load_file("model.safetensors"))
```

and back by `eqcifar import model.safetensors`."""


_WITHOUT_CODE = """
Without any, in inference mode:

```python
{loader}```"""


_USE = """\
```sh
eqcifar eval model.safetensors
eqcifar predict model.safetensors IMAGE
```"""


_USE_IN_PYTHON = """\
With a model and state of the class `{arch}`, as for training:

```python
from eqcifar import runs

loaded = runs.load_model("model.safetensors", like=(model, state))
```"""


_SHARPNESS = """
## Sharpness

By `eqcifar sharpness`; ± is half the 95 % interval.

| number | value | ± | images | meaning |
|---|---|---|---|---|
{rows}
"""


def model_card(
    loaded: LoadedModel,
    run: Run,
    names: Mapping[str, str] | None = None,
    *,
    title: str = "",
    licence: str = "",
) -> str:
    """What a reader has to know of a network, in the form of the Hugging Face hub.

    Its metadata, which the hub reads, has data, licence, accuracy and sharpness.

    **Arguments:**

    - `loaded`: the network.
    - `run`: where it is from; if that is no run's folder, results are left out.
    - `names`: of its arrays in PyTorch, where the file has those.
    - `title`: what the hub calls it; by default the architecture.
    - `licence`: such as `mit`, as the hub calls it.

    **Returns:**

    Markdown.
    """
    config, header = loaded.config, loaded.header
    data, arrays = header["data"], named_arrays(loaded.model, loaded.state)
    accuracies = _accuracies(run, config, header["step"])
    numbers = _numbers(run, config)
    metadata = _metadata(config, data, title or config.arch, accuracies, numbers)
    if licence:
        metadata["license"] = licence
    card = _CARD.format(
        metadata=yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True),
        sharpness=_show(numbers),
        arch=config.arch,
        use=_use(loaded, names),
        title=_text(_shown(data["name"])),
        data=_code(_shown(data["name"])),
        numbers=sum(array.size for array in arrays.values()),
        tensors=len(arrays),
        synthetic=" (**procedural images, no photographs**)"
        if data["synthetic"]
        else "",
        sha256=_code(data["sha256"]),
        training=_training(header, config.seed),
        results="".join(f"- **Results** {x}.\n" for x in _results(run, accuracies)),
        mean=", ".join(map(str, config.mean)),
        std=", ".join(map(str, config.std)),
        probabilities=LOSSES.get(config.loss, LOSSES["ce"]).probabilities_are,
        classes=", ".join(map(_text, loaded.classes)),
        options="\n".join(_options(config, header.get("about", {}))),
        environment="\n".join(_environment(header.get("environment", {}))),
    )
    # What JSON can hold, and UTF-8 cannot.
    return card.encode("utf-8", "replace").decode()


def _text(value: Any) -> str:
    """Somebody's name of something, on one line and without markup."""
    return re.sub(r"[`<|]|(?<=\])\(", r"\\\g<0>", _line(value))


def _code(value: Any) -> str:
    """The same, to stand between backticks."""
    return _line(value).replace("`", "'").replace("|", "\\|")


def _line(value: Any) -> str:
    return "".join(c if c.isprintable() else " " for c in str(value))


def _use(loaded: LoadedModel, names: Mapping[str, str] | None) -> str:
    config = loaded.config
    if names is None:
        use = _USE_IN_PYTHON if config.has_own_arch else _USE
        return use.format(arch=config.arch) + _TENSORS
    imported = loaded.header.get("imported", {})
    first = (x for x in NAMINGS.values() if names_in(x, loaded.model, loaded.state))
    source = imported["naming"] if imported else next(first).source
    program = loader(loaded.model, names)
    use = _USE_IN_PYTORCH.format(source=source)
    return use + (_WITHOUT_CODE.format(loader=program) if program else "")


def _training(header: Mapping[str, Any], seed: int) -> str:
    if "imported" not in header:
        return f"- **Training:** {header['step']} steps with eqcifar, seed {seed}."
    origin = header["imported"]
    return (
        f"- **Origin:** {_text(header['about']['origin'])}: `{_code(origin['file'])}`, "
        f"SHA-256 `{_code(origin['sha256'])}`, trained in PyTorch and imported by the "
        f"names of {_text(origin['naming'])}."
    )


@dataclasses.dataclass(frozen=True)
class _Accuracy:
    """What the log says of a split after the last epoch."""

    epoch: int
    split: str
    images: int
    accuracy: float
    loss: float

    def interval(self) -> tuple[float, float]:
        """Wilson's, of 95 %."""
        hits = round(self.accuracy * self.images)
        interval = binomtest(hits, self.images).proportion_ci(method="wilson")
        return interval.low, interval.high


def _accuracies(run: Run, config: TrainConfig, step: int) -> list[_Accuracy]:
    rows = run.log() if (run.path / "log.tsv").exists() else []
    if not rows:
        return []
    examples = run.description()["data"].get("examples", {})
    if "train" not in examples:
        return []
    per_epoch = steps_per_epoch(config, examples["train"])
    # The log of an unfinished run can be ahead of its checkpoint.
    row = next((row for row in rows if row["epoch"] * per_epoch == step), None)
    if row is None:
        return []
    splits = {"train": "tr", "val": "va", "test": "te"}
    return [
        _Accuracy(int(row["epoch"]), split, examples[split], accuracy, row[f"loss_{s}"])
        for split, s in splits.items()
        if split in examples and not math.isnan(accuracy := row[f"acc_{s}"])
    ]


def _results(run: Run, accuracies: Sequence[_Accuracy]) -> Iterator[str]:
    if accuracies and accuracies[0].epoch:
        yield f"are of epoch {accuracies[0].epoch}, the last; nothing was selected"
    for each in accuracies:
        low, high = each.interval()
        yield (
            f"on {each.images} {each.split} images: accuracy {each.accuracy:.4f} "
            f"({low:.4f} to {high:.4f}, 95 %), loss {each.loss:.4f}"
        )
    if accuracies and run.status()["state"] != "done":
        yield "will change: training is not finished"


@dataclasses.dataclass(frozen=True)
class _Number:
    """A measure of `sharpness.tsv`, and half its 95 % interval."""

    column: str
    value: float
    half: float
    images: int | None
    meaning: str

    @property
    def split(self) -> str:
        return parse_column(self.column).split


def _numbers(run: Run, config: TrainConfig) -> list[_Number]:
    values, bases = read_measures(run.path, config.epochs, lambda message: None)
    numbers = []
    for name, basis in bases.items():
        column = parse_column(name)
        half = 1.96 * values.get(f"{name}_se", math.nan)
        half += values.get(f"{name}_bound", 0.0)
        text = meaning(column.base, column.loss or config.loss)
        numbers.append(_Number(name, values[name], half, basis.images, text))
    return numbers


def _show(numbers: Sequence[_Number]) -> str:
    if not numbers:
        return ""
    rows = []
    for each in numbers:
        value, half = format_estimate(each.value, each.half)
        images = f"{each.images or ''} {each.split}".strip()
        cells = f"`{each.column}`", value, half, images, each.meaning
        rows.append(f"| {' | '.join(cells)} |")
    return _SHARPNESS.format(rows="\n".join(rows))


def _metadata(
    config: TrainConfig,
    data: Mapping[str, Any],
    title: str,
    accuracies: Sequence[_Accuracy],
    numbers: Sequence[_Number],
) -> dict[str, Any]:
    """What the hub reads, with results as its `model-index` has them."""
    hub_id = _hub_id(config.dataset)
    found: dict[str, list[dict[str, Any]]] = {}
    for each in accuracies:
        low, high = each.interval()
        name = (
            f"Accuracy on {each.images} images, 95 % interval {low:.4f} to {high:.4f}"
        )
        metric = {"type": "accuracy", "value": each.accuracy, "name": name}
        found.setdefault(each.split, []).append(metric)
    for each in numbers:
        name = f"{each.column}: {each.meaning}"
        if math.isfinite(each.half):
            low, high = each.value - each.half, each.value + each.half
            name += f", 95 % interval {low:.6g} to {high:.6g}"
        metric = {"type": each.column, "value": each.value, "name": name}
        found.setdefault(each.split, []).append(metric)
    kind = "image-classification"
    results = [
        {
            "task": {"type": kind},
            "dataset": {
                "type": hub_id or _shown(data["name"]),
                "name": _shown(data["name"]),
                "split": split,
            },
            "metrics": metrics,
        }
        for split, metrics in found.items()
    ]
    return {
        "library_name": "eqcifar",
        "pipeline_tag": kind,
        "tags": ["eqcifar", "jax", "equinox", kind],
        **({"datasets": [hub_id]} if hub_id else {}),
        **({"metrics": ["accuracy"]} if accuracies else {}),
        **({"model-index": [{"name": title, "results": results}]} if results else {}),
    }


def _hub_id(name: str) -> str:
    """The dataset's name on the hub, if it is there."""
    known = DATASETS.get(name, name.removeprefix("hf://datasets/"))
    is_id = isinstance(known, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", known)
    return str(known) if is_id else ""


def _shown(name: str) -> str:
    # Where somebody's folders are concerns nobody else.
    return os.path.basename(name) if os.path.isabs(name) else name


def _options(config: TrainConfig, about: Mapping[str, Any]) -> Iterator[str]:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value != field.default:
            yield f"| `{field.name}` | `{_code(value)}` | `{field.default}` |"
    for name, value in about.items():
        yield f"| `{_code(name)}`, in Python | `{_code(value)}` | |"


def _environment(environment: dict[str, Any]) -> Iterator[str]:
    for section in ("versions", "devices"):
        parts = environment.get(section, {}).items()
        if parts:
            listed = ", ".join(_text(f"{name} {what}") for name, what in parts)
            yield f"- {section}: {listed}"

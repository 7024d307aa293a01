import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from ..config import TrainConfig
from ..losses import LOSSES
from ..runs import LoadedModel, named_arrays
from ..storage import Run
from ..training import steps_per_epoch
from ._pytorch_loader import loader
from ._pytorch_names import NAMINGS, names_in

_CARD = """\
---
library_name: eqcifar
pipeline_tag: image-classification
tags: [eqcifar, jax, equinox, image-classification]
---

# {arch} on {data}

- **Network:** `{arch}`, {numbers:,} numbers in {tensors} tensors, running statistics of
  BatchNorm included.
- **Data:** `{data}`{synthetic}, SHA-256 `{sha256}`.
{training}
{results}- **Input:** RGB images of 32 x 32 pixels, as 3 x 32 x 32 numbers in [0, 1]; by
  channel, ({mean}) is subtracted before they are divided by ({std}).
- **Output:** a number for each class. Probabilities are {probabilities}.
- **Classes,** in order: {classes}.

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


def model_card(
    loaded: LoadedModel, run: Run, names: Mapping[str, str] | None = None
) -> str:
    """What a reader has to know of a network, in the form of the Hugging Face hub.

    **Arguments:**

    - `loaded`: the network.
    - `run`: where it is from; if that is no run's folder, results are left out.
    - `names`: of its arrays in PyTorch, where the file has those.

    **Returns:**

    Markdown.
    """
    config, header = loaded.config, loaded.header
    data, arrays = header["data"], named_arrays(loaded.model, loaded.state)
    return _CARD.format(
        arch=config.arch,
        use=_use(loaded, names),
        data=data["name"],
        numbers=sum(array.size for array in arrays.values()),
        tensors=len(arrays),
        synthetic=" (**procedural images, no photographs**)"
        if data["synthetic"]
        else "",
        sha256=data["sha256"],
        training=_training(header, config.seed),
        results="".join(
            f"- **Results** {line}.\n" for line in _results(run, config, header["step"])
        ),
        mean=", ".join(map(str, config.mean)),
        std=", ".join(map(str, config.std)),
        probabilities=LOSSES.get(config.loss, LOSSES["ce"]).probabilities_are,
        classes=", ".join(loaded.classes),
        options="\n".join(_options(config, header.get("about", {}))),
        environment="\n".join(_environment(header.get("environment", {}))),
    )


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
        f"- **Origin:** {header['about']['origin']}: `{origin['file']}`, SHA-256 "
        f"`{origin['sha256']}`, trained in PyTorch and imported by the names of "
        f"{origin['naming']}."
    )


def _results(run: Run, config: TrainConfig, step: int) -> Iterator[str]:
    rows = run.log() if (run.path / "log.tsv").exists() else []
    if not rows:
        return
    examples = run.description()["data"].get("examples", {})
    if "train" not in examples:
        return
    per_epoch = steps_per_epoch(config, examples["train"])
    # The log of an unfinished run can be ahead of its checkpoint.
    row = next((row for row in rows if row["epoch"] * per_epoch == step), None)
    if row is None:
        return
    if row["epoch"]:
        yield f"are of epoch {row['epoch']}, the last; nothing was selected"
    for split, short in (("train", "tr"), ("val", "va"), ("test", "te")):
        accuracy, loss = row[f"acc_{short}"], row[f"loss_{short}"]
        if not math.isnan(accuracy):
            count = examples.get(split, "?")
            yield f"on {count} {split} images: accuracy {accuracy:.4f}, loss {loss:.4f}"
    if run.status()["state"] != "done":
        yield "will change: training is not finished"


def _options(config: TrainConfig, about: Mapping[str, Any]) -> Iterator[str]:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value != field.default:
            yield f"| `{field.name}` | `{value}` | `{field.default}` |"
    for name, value in about.items():
        yield f"| `{name}`, in Python | `{value}` | |"


def _environment(environment: dict[str, Any]) -> Iterator[str]:
    for section in ("versions", "devices"):
        parts = environment.get(section, {}).items()
        if parts:
            yield f"- {section}: {', '.join(f'{name} {what}' for name, what in parts)}"

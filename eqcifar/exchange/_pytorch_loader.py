"""A network as a page of PyTorch that reads its state dict."""

import textwrap
from collections.abc import Mapping
from typing import Any

from .. import models

_COMMON = """\
import torch.nn.functional as F
from safetensors.torch import load_file

w = load_file("model.safetensors")


def conv(x, name, stride=1):
    k = w[f"{name}.weight"]
    return F.conv2d(x, k, w.get(f"{name}.bias"), stride, k.shape[-1] // 2)


def norm(x, name):
    parts = "running_mean", "running_var", "weight", "bias"
    return F.batch_norm(x, *(w[f"{name}.{part}"] for part in parts))


def linear(x, name):
    return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])
"""
_PROJECTED = """\
        if f"{{b}}.{conv}.weight" in w:
            x = norm(conv(x, f"{{b}}.{conv}", stride), f"{{b}}.{norm}")
        x = F.relu(x + y)"""
_PADDED = """\
        extra = y.shape[1] - x.shape[1]
        zeros = {before}
        x = F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, zeros, extra - zeros))
        x = F.relu(x + y)"""


def loader(model: Any, names: Mapping[str, str]) -> str:
    """A function of PyTorch that is the network in inference mode.

    **Arguments:**

    - `model`: a ResNet, Wide ResNet or VGG.
    - `names`: of its arrays in `model.safetensors`, by the names of `named_arrays`.

    **Returns:**

    A program that defines `network`, of normalised images of shape (n, 3, 32, 32);
    empty for a network that it cannot be written for.
    """
    layers = {a.rpartition(".")[0]: b.rpartition(".")[0] for a, b in names.items()}
    write = _WRITERS.get(type(model))
    is_normalised = any(name.endswith(".running_mean") for name in names)
    network = write(model, layers) if write and is_normalised else ""
    network = network.replace("F.relu", f"F.{getattr(model, 'activation', 'relu')}")
    return f"{_COMMON}\n\n{network}" if network else ""


def _resnet(model: models.ResNet, layers: Mapping[str, str]) -> str:
    found = _blocks(model, layers)
    if found is None:
        return ""
    shape, inner = found
    count = 3 if "conv3" in inner else 2
    strided = 2 if count == 3 else 1
    lines = []
    for i in range(1, count + 1):
        x, stride = "x" if i == 1 else "y", ", stride" if i == strided else ""
        value = f'norm(conv({x}, f"{{b}}.{inner[f"conv{i}"]}"{stride}), '
        value += f'f"{{b}}.{inner[f"norm{i}"]}")'
        lines.append(f"        y = {value if i == count else f'F.relu({value})'}")
    if "shortcut.conv" in inner:
        end = _PROJECTED.format(
            conv=inner["shortcut.conv"], norm=inner["shortcut.norm"]
        )
    else:
        shortcuts = [x.shortcut for x in model.blocks if x.shortcut is not None]
        centred = any(getattr(x, "zeros_before", 0) for x in shortcuts)
        end = _PADDED.format(before="extra // 2" if centred else "0")
    return "\n".join(
        [
            "def network(x):",
            f'    x = F.relu(norm(conv(x, "{layers["stem"]}"), "{layers["norm"]}"))',
            shape,
            *lines,
            end,
            f'    return linear(x.mean((2, 3)), "{layers["classifier"]}")\n',
        ]
    )


def _preactivation(model: Any, layers: Mapping[str, str]) -> str:
    found = _blocks(model, layers)
    if found is None:
        return ""
    shape, inner = found
    lines = [
        "def network(x):",
        f'    x = conv(x, "{layers["stem"]}")',
        shape,
        f'        y = F.relu(norm(x, f"{{b}}.{inner["norm1"]}"))',
    ]
    if "shortcut" in inner:
        lines += [
            f'        if f"{{b}}.{inner["shortcut"]}.weight" in w:',
            f'            x = conv(y, f"{{b}}.{inner["shortcut"]}", stride)',
        ]
    lines += [
        f'        y = conv(y, f"{{b}}.{inner["conv1"]}", stride)',
        f'        y = F.relu(norm(y, f"{{b}}.{inner["norm2"]}"))',
        f'        x = x + conv(y, f"{{b}}.{inner["conv2"]}")',
    ]
    if "norm" in layers:
        lines.append(f'    x = F.relu(norm(x, "{layers["norm"]}"))')
    last = f'    return linear(x.mean((2, 3)), "{layers["classifier"]}")\n'
    return "\n".join([*lines, last])


def _vgg(model: models.VGG, layers: Mapping[str, str]) -> str:
    lines = ["def network(x):"]
    for stage, convolutions in enumerate(model.stages):
        for i in range(len(convolutions)):
            c, n = (layers[f"stages.{stage}.{i}.{part}"] for part in (0, 1))
            lines.append(f'    x = F.relu(norm(conv(x, "{c}"), "{n}"))')
        lines.append("    x = F.max_pool2d(x, 2)")
    lines.append("    x = x.flatten(1)")
    for i in range(len(model.hidden)):
        lines.append(f'    x = F.relu(linear(x, "{layers[f"hidden.{i}"]}"))')
    return "\n".join([*lines, f'    return linear(x, "{layers["classifier"]}")\n'])


_WRITERS = {
    models.ResNet: _resnet,
    models.PreActResNet: _preactivation,
    models.WideResNet: _preactivation,
    models.VGG: _vgg,
}


def _blocks(
    model: Any, layers: Mapping[str, str]
) -> tuple[str, Mapping[str, str]] | None:
    """A loop over the blocks, and what their layers are called in each of them."""
    first = [layers[f"blocks.{i}.conv1"].split(".") for i in range(len(model.blocks))]
    common = 0
    while len({tuple(parts[-common - 1 :]) for parts in first}) == 1:
        common += 1
    prefixes = [".".join(parts[:-common]) for parts in first]
    inner: dict[str, str] = {}
    for name, there in layers.items():
        kind, _, rest = name.partition(".")
        if kind != "blocks":
            continue
        number, _, ours = rest.partition(".")
        prefix = prefixes[int(number)] + "."
        if not there.startswith(prefix):
            return None
        if inner.setdefault(ours, there.removeprefix(prefix)) != there.removeprefix(
            prefix
        ):
            return None
    strided = [
        prefix
        for prefix, block in zip(prefixes, model.blocks, strict=True)
        if max(block.conv1.stride, block.conv2.stride) > 1
    ]
    listed = textwrap.wrap(" ".join(prefixes), 76)
    text = " ".join(strided)
    lines = [
        f'    strided = "{text}".split()',
        "    for b in (",
        *(f'        "{line} "' for line in listed),
        "    ).split():",
        "        stride = 2 if b in strided else 1",
    ]
    return "\n".join(lines), inner

"""What others' PyTorch networks call the arrays of the networks here.

A line of `NAMINGS` is all that another repository's naming takes. Layouts are the same:
filters (out, in, height, width), matrices (out, in).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx

from .. import models
from ..models import Model, NoNorm
from ..runs import named_arrays

Shape = tuple[int, ...]
_MOST_SHOWN = 4


@dataclasses.dataclass(frozen=True)
class Naming:
    """How a family of PyTorch networks names its layers.

    - `source`: whose it is.
    - `layers`: of a network here, what each of its layers is called there; nothing for
        a network that is not of this family.
    """

    source: str
    layers: Callable[[Any], Mapping[str, str]]


def _residual(
    kind: type, block: str, inner: Mapping[str, str], outer: Mapping[str, str]
) -> Callable[[Any], Mapping[str, str]]:
    """Names of a network of blocks, which are counted anew in each stage."""

    def layers(model: Any) -> Mapping[str, str]:
        if type(model) is not kind:
            return {}
        names, stage, index = dict(outer), 1, 0
        for number, part in enumerate(model.blocks):
            if part.conv1.stride > 1 or part.conv2.stride > 1:
                stage, index = stage + 1, 0
            there = block.format(stage=stage, after=stage + 1, block=index)
            names |= {f"blocks.{number}.{a}": f"{there}.{b}" for a, b in inner.items()}
            index += 1
        return names

    return layers


def _vgg(with_hidden: bool) -> Callable[[Any], Mapping[str, str]]:
    """Names of an `nn.Sequential` of convolution, BatchNorm, ReLU and maximum."""

    def layers(model: Any) -> Mapping[str, str]:
        if type(model) is not models.VGG or bool(model.hidden) is not with_hidden:
            return {}
        names, place = {}, 0
        for stage, convolutions in enumerate(model.stages):
            for index in range(len(convolutions)):
                names[f"stages.{stage}.{index}.0"] = f"features.{place}"
                names[f"stages.{stage}.{index}.1"] = f"features.{place + 1}"
                # Convolution, activation and what normalises between.
                is_normalised = not isinstance(convolutions[index][1], NoNorm)
                place += 3 if is_normalised else 2
            place += 1
        if not with_hidden:
            return names | {"classifier": "classifier"}
        # Linear, ReLU and Dropout each.
        for index in range(len(model.hidden)):
            names[f"hidden.{index}"] = f"classifier.{3 * index}"
        return names | {"classifier": f"classifier.{3 * len(model.hidden)}"}

    return layers


def _mlp(model: Any) -> Mapping[str, str]:
    """Names of an `nn.Sequential` of images made flat, and linear layers."""
    if type(model) is not models.MLP:
        return {}
    count = len(model.hidden)
    names = {f"hidden.{i}": f"{2 * i + 1}" for i in range(count)}
    return names | {"classifier": f"{2 * count + 1}"}


def _vit(model: Any) -> Mapping[str, str]:
    if type(model) is not models.ViT:
        return {}
    inner = {"norm1": "norm1", "qkv": "attn.qkv", "proj": "attn.proj"}
    inner |= {"norm2": "norm2", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
    outer = {"": "", "patch": "patch_embed.proj", "norm": "norm", "classifier": "head"}
    return outer | {
        f"blocks.{i}.{a}": f"blocks.{i}.{b}"
        for i in range(len(model.blocks))
        for a, b in inner.items()
    }


def _without_zeros_at_the_end(layers: Callable[[Any], Mapping[str, str]]):
    """Leaves out networks whose shortcuts append zeros, which these do not."""

    def fitting(model: Any) -> Mapping[str, str]:
        shortcuts = (getattr(part, "shortcut", None) for part in model.blocks)
        appends = any(getattr(each, "zeros_before", 1) == 0 for each in shortcuts)
        return {} if appends else layers(model)

    return lambda model: fitting(model) if hasattr(model, "blocks") else {}


def _numbered(*pairs: tuple[str, str]) -> dict[str, str]:
    return {f"{a}{i}": f"{b}{i}" for a, b in pairs for i in (1, 2, 3)}


_PLAIN = _numbered(("conv", "conv"), ("norm", "bn"))
_OUTER = {"stem": "conv1", "norm": "bn1"}
_SEQUENCE = {"shortcut.conv": "shortcut.0", "shortcut.norm": "shortcut.1"}
# Where several fit, the first is taken, and that of an export.
NAMINGS: dict[str, Naming] = {
    "torchvision": Naming(
        "torchvision, timm and chenyaofo/pytorch-cifar-models",
        _residual(
            models.ResNet,
            "layer{stage}.{block}",
            {
                **_PLAIN,
                "shortcut.conv": "downsample.0",
                "shortcut.norm": "downsample.1",
            },
            {**_OUTER, "classifier": "fc"},
        ),
    ),
    "kuangliu": Naming(
        "kuangliu/pytorch-cifar",
        _without_zeros_at_the_end(
            _residual(
                models.ResNet,
                "layer{stage}.{block}",
                {**_PLAIN, **_SEQUENCE},
                {**_OUTER, "classifier": "linear"},
            )
        ),
    ),
    "weiaicunzai": Naming(
        "weiaicunzai/pytorch-cifar100",
        _residual(
            models.ResNet,
            "conv{after}_x.{block}",
            {
                **{f"conv{i}": f"residual_function.{3 * i - 3}" for i in (1, 2, 3)},
                **{f"norm{i}": f"residual_function.{3 * i - 2}" for i in (1, 2, 3)},
                **_SEQUENCE,
            },
            {"stem": "conv1.0", "norm": "conv1.1", "classifier": "fc"},
        ),
    ),
    "kuangliu-preact": Naming(
        "kuangliu/pytorch-cifar's PreActResNet",
        _residual(
            models.PreActResNet,
            "layer{stage}.{block}",
            {**_PLAIN, "shortcut": "shortcut.0"},
            {"stem": "conv1", "classifier": "linear"},
        ),
    ),
    "mlp": Naming("nn.Sequential(nn.Flatten(), nn.Linear(...), ...)", _mlp),
    "vit": Naming("timm's VisionTransformer", _vit),
    "xternalz": Naming(
        "xternalz/WideResNet-pytorch",
        _residual(
            models.WideResNet,
            "block{stage}.layer.{block}",
            {**_PLAIN, "shortcut": "convShortcut"},
            {**_OUTER, "classifier": "fc"},
        ),
    ),
    "vgg": Naming("kuangliu/pytorch-cifar's VGG", _vgg(with_hidden=False)),
    "vgg-fc": Naming(
        "chenyaofo/pytorch-cifar-models' and torchvision's VGG", _vgg(with_hidden=True)
    ),
}


@dataclasses.dataclass(frozen=True)
class Match:
    """The arrays of a network here beside those of a file.

    - `source`: whose naming it is.
    - `names`: of the file's arrays, by the names here.
    - `problems`: names and shapes that do not match, a text each.
    - `left_out`: arrays of the file that are beside the network.
    """

    source: str
    names: Mapping[str, str]
    problems: Sequence[str]
    left_out: Sequence[str] = ()

    def explain(self) -> str:
        """The problems in a line."""
        shown = "; ".join(self.problems[:_MOST_SHOWN])
        more = len(self.problems) - _MOST_SHOWN
        return shown + (f"; and {more} more" if more > 0 else "")


def names_in(naming: Naming, model: Model, state: eqx.nn.State) -> dict[str, str]:
    """What a naming calls each array of a network; empty for one of another family.

    **Arguments:**

    - `naming`: a value of `NAMINGS`.
    - `model`, `state`: of arrays or of `jax.ShapeDtypeStruct`.

    **Returns:**

    Names there by the names of `named_arrays`.
    """
    layers, names = naming.layers(model), {}
    for name in named_arrays(model, state):
        layer, _, part = name.rpartition(".")
        if layer not in layers:
            return {}
        names[name] = f"{layers[layer]}.{part}".removeprefix(".")
    return names


def match_all(
    found: Mapping[str, Shape], model: Model, state: eqx.nn.State
) -> list[Match]:
    """A network's arrays beside those of a file, by every naming of its family.

    **Arguments:**

    - `found`: the shapes in the file, by name.
    - `model`, `state`: as for `names_in`.

    **Returns:**

    A match for each naming and each prefix, such as `module.`, the best first: of one
    that fits, `problems` is empty.
    """
    wanted = {name: leaf.shape for name, leaf in named_arrays(model, state).items()}
    matches = []
    for naming in NAMINGS.values():
        names = names_in(naming, model, state)
        for prefix in _prefixes(found, names):
            full = {ours: prefix + theirs for ours, theirs in names.items()}
            matches.append(compare_shapes(found, wanted, full, naming.source, prefix))
    return sorted(matches, key=lambda match: len(match.problems))


def compare_shapes(
    found: Mapping[str, Shape],
    wanted: Mapping[str, Shape],
    names: Mapping[str, str],
    source: str,
    prefix: str = "",
) -> Match:
    """What does not match under some names.

    **Arguments:**

    - `found`: the shapes in the file, by the names there.
    - `wanted`: the shapes here, by the names here.
    - `names`: the names there, by those here.
    - `source`: whose names they are.
    - `prefix`: arrays of other names are beside the network.
    """
    problems = []
    for ours, shape in wanted.items():
        theirs = names.get(ours)
        if theirs is None:
            problems.append(f"nothing is named for {ours} {list(shape)}")
        elif theirs not in found:
            problems.append(f"it lacks {theirs} {list(shape)}")
        elif found[theirs] != shape:
            problems.append(
                f"{theirs} is {list(found[theirs])} there, and {list(shape)} here"
            )
    unknown = [ours for ours in names if ours not in wanted]
    problems += [f"no array here is called {ours}" for ours in unknown]
    taken = list(names.values())
    doubled = {theirs for theirs in taken if taken.count(theirs) > 1}
    problems += [f"{theirs} is named more than once" for theirs in sorted(doubled)]
    rest = [theirs for theirs in found if theirs not in set(taken)]
    inside = [theirs for theirs in rest if theirs.startswith(prefix)]
    problems += [f"nothing here takes {x} {list(found[x])}" for x in inside]
    return Match(source, names, problems, [x for x in rest if x not in inside])


def _prefixes(found: Mapping[str, Shape], names: Mapping[str, str]) -> list[str]:
    if not names:
        return []
    first = next(iter(names.values()))
    ends = [name.removesuffix(first) for name in found if name.endswith(first)]
    prefixes = [prefix for prefix in ends if not prefix or prefix.endswith(".")]
    # Blocks have convolutions of that name too: the network's own is the shortest.
    outermost = [
        prefix
        for prefix in prefixes
        if not any(prefix != other and prefix.startswith(other) for other in prefixes)
    ]
    return outermost or [""]

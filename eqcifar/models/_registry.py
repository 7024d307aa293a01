import inspect
import re
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeAlias

import equinox as eqx
from equinox.nn import State
from jaxtyping import Array, Float, PRNGKeyArray

from eqcifar.errors import UsageError, unknown
from eqcifar.fields import show_field

from ._airbench import Airbench
from ._initial_weights import lecun_normal
from ._mlp import MLP
from ._preact import PreActResNet
from ._resnet import ResNet
from ._vgg import VGG
from ._vit import ViT
from ._wide_resnet import WideResNet

# In every room: one example and the state to its logits and the new state.
Model: TypeAlias = Callable[..., tuple[Float[Array, " classes"], State]]

_imagenet = partial(ResNet, shortcut="projection", channels=(64, 128, 256, 512))
_cifar = partial(ResNet, block="basic", shortcut="padding", channels=(16, 32, 64))
# Those of sungyubkim/cifar_jax, where they are not the papers'.
_original = partial(ResNet, block="late-stride", shortcut="pooled")

ARCHITECTURES: dict[str, Callable[..., Model]] = {
    "vgg": partial(VGG, depths=(2, 2, 2, 2, 2), hidden=(512, 512, 512)),
    "vgg11": partial(VGG, depths=(1, 1, 2, 2, 2)),
    "vgg13": partial(VGG, depths=(2, 2, 2, 2, 2)),
    "vgg16": partial(VGG, depths=(2, 2, 3, 3, 3)),
    "vgg19": partial(VGG, depths=(2, 2, 4, 4, 4)),
    "vgg11-fc3": partial(VGG, depths=(1, 1, 2, 2, 2), hidden=(512, 512)),
    "vgg13-fc3": partial(VGG, depths=(2, 2, 2, 2, 2), hidden=(512, 512)),
    "vgg16-fc3": partial(VGG, depths=(2, 2, 3, 3, 3), hidden=(512, 512)),
    "vgg19-fc3": partial(VGG, depths=(2, 2, 4, 4, 4), hidden=(512, 512)),
    "airbench93": partial(Airbench, channels=(64, 128, 128)),
    "airbench94": partial(Airbench, channels=(64, 256, 256)),
    "airbench95": partial(Airbench, channels=(128, 384, 384)),
    "airbench96": partial(Airbench, channels=(128, 384, 512), depth=3),
    "resnet8": partial(_cifar, depths=(1, 1, 1)),
    "resnet20": partial(_cifar, depths=(3, 3, 3)),
    "resnet32": partial(_cifar, depths=(5, 5, 5)),
    "resnet44": partial(_cifar, depths=(7, 7, 7)),
    "resnet56": partial(_cifar, depths=(9, 9, 9)),
    "resnet110": partial(_cifar, depths=(18, 18, 18)),
    "resnet18": partial(_imagenet, block="basic", depths=(2, 2, 2, 2)),
    "resnet34": partial(_imagenet, block="basic", depths=(3, 4, 6, 3)),
    "resnet50": partial(_imagenet, block="bottleneck", depths=(3, 4, 6, 3)),
    "resnet101": partial(_imagenet, block="bottleneck", depths=(3, 4, 23, 3)),
    "resnet152": partial(_imagenet, block="bottleneck", depths=(3, 8, 36, 3)),
    "preact18": partial(PreActResNet, depths=(2, 2, 2, 2)),
    "preact34": partial(PreActResNet, depths=(3, 4, 6, 3)),
    "mlp": MLP,
    "vit-tiny": ViT,
    "wrn10-1": partial(WideResNet, depth=10, widen=1),
    "wrn16-4": partial(WideResNet, depth=16, widen=4),
    "wrn28-2": partial(WideResNet, depth=28, widen=2),
    "wrn28-10": partial(WideResNet, depth=28, widen=10),
    "wrn40-4": partial(WideResNet, depth=40, widen=4),
    "original-resnet18": partial(
        _original, depths=(2, 2, 2, 2), channels=(64, 128, 256, 512)
    ),
    "original-wrn28-10": partial(
        _original, depths=(4, 4, 4), channels=(160, 320, 640), stem=16
    ),
}
# A name costs nothing to write, and a layer some milliseconds to make.
_DEEPEST = 1000
# Every other wide ResNet goes by the same pattern.
_WIDE_RESNET = re.compile(r"wrn(\d+)-(\d+)")


# What `create` passes to those constructors that take it, and what it is otherwise.
_OPTIONS = {
    "width": 1.0,
    "dropout": 0.0,
    "shortcut": "own",
    "activation": "relu",
    "norm": "batch",
}


def create(
    name: str,
    num_classes: int = 10,
    *,
    width: float = 1.0,
    dropout: float = 0.0,
    shortcut: Literal["own", "padding", "centred", "projection"] = "own",
    activation: Literal["relu", "gelu", "tanh", "elu", "silu"] = "relu",
    norm: Literal["batch", "group", "layer", "none"] = "batch",
    init: str = "he",
    key: PRNGKeyArray,
) -> tuple[Model, State]:
    """Make an architecture by its name.

    **Arguments:**

    - `name`: One of [`ARCHITECTURES`][], or `wrn<depth>-<k>` for any wide ResNet.
    - `num_classes`: The number of logits.
    - `width`: Multiplies all channels.
    - `dropout`: The chance of a value to be dropped in training, from 0 to below 1;
        for architectures whose constructor takes it.
    - `shortcut`: Of a ResNet's blocks that change the shape; see [`ResNet`][].
    - `activation`, `norm`: For architectures that have a choice; see [`ResNet`][].
    - `init`: The initial weights of layers before a ReLU have variance 2 / fan-in and
        those of the classifier 1 / fan-in (He et al., 2015), or all are drawn as
        [`lecun_normal`][] draws them, airbench's partial identities too.
    - `key`: For the initial weights.

    **Returns:**

    The model in training mode, and its state. `model(x, state, key=None)` maps one
    image `Float[Array, "3 height width"]` to the logits
    `Float[Array, "num_classes"]` and the new state.

    **Raises:**

    A `UsageError` when there is no such architecture or it cannot be made like this.
    """
    build = _find(name)
    if num_classes < 1:
        raise UsageError(f"num_classes is at least 1, not {num_classes}")
    if not 0 <= dropout < 1:
        raise UsageError(f"dropout is from 0 to below 1, not {dropout:g}")
    given = {
        "width": width,
        "dropout": dropout,
        "shortcut": shortcut,
        "activation": activation,
        "norm": norm,
    }
    options = _fitting(name, build, given)
    model, state = eqx.nn.make_with_state(build)(num_classes, **options, key=key)
    return (lecun_normal(model, key=key) if init == "lecun" else model), state


def check_name(name: str) -> None:
    """Refuse a name that `create` does not know.

    **Arguments:**

    - `name`: As that of [`create`][].

    **Raises:**

    A `UsageError` with the nearest names.
    """
    _find(name)


def _fitting(
    name: str, build: Callable[..., Model], options: dict[str, Any]
) -> dict[str, Any]:
    """The options that are not as if not given, each of which it has to take."""
    given = {k: value for k, value in options.items() if value != _OPTIONS[k]}
    for option in given:
        if not _takes(build, option):
            others = [x for x, make in ARCHITECTURES.items() if _takes(make, option)]
            raise UsageError(
                f"{name} has no {option}: leave it at {show_field(_OPTIONS[option])}, "
                f"or take one that has: {', '.join(others)}"
            )
    return given


def _takes(build: Callable[..., Any], option: str) -> bool:
    return option in inspect.signature(build).parameters


def _find(name: str) -> Callable[..., Model]:
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    if match := _WIDE_RESNET.fullmatch(name):
        depth, widen = map(int, match.groups())
        if depth > _DEEPEST:
            raise UsageError(f"{name} is too deep to be made: at most {_DEEPEST}")
        return partial(WideResNet, depth=depth, widen=widen)
    raise unknown("architecture", name, [*ARCHITECTURES, "wrn<depth>-<k>"])

"""Which axes of a network's arrays can be permuted together and change nothing."""

from typing import Any, TypeAlias

import equinox as eqx

from eqcifar.errors import UsageError

from ._airbench import Airbench
from ._batch_norm import BatchNorm
from ._conv2d import Conv2d
from ._mlp import MLP
from ._norms import GroupNorm, NoNorm
from ._preact import PreActResNet
from ._resnet import ResNet
from ._vgg import VGG
from ._wide_resnet import WideResNet

# Channels that layers share, as groups and their sizes one after another, each of which
# can be permuted within itself. `None` are channels that nothing may permute.
Wire: TypeAlias = tuple[tuple[str, int], ...] | None


def channel_axes(model: Any) -> dict[str, tuple[Wire, ...]]:
    """What each axis of a network's arrays is, of channels that can be permuted.

    Ainsworth et al., 2023, https://arxiv.org/abs/2209.04836

    **Arguments:**

    - `model`: of this package.

    **Returns:**

    By the array's name, such as "blocks.0.conv1.weight" or "norm.running_mean", a wire
    for each axis. Wires come in the order in which an image passes them.

    **Raises:**

    `UsageError` for a network whose symmetries are others.
    """
    axes: dict[str, tuple[Wire, ...]] = {}
    for kind, trace in _TRACES.items():
        if isinstance(model, kind):
            trace(model, axes)
            return axes
    known = ", ".join(kind.__name__ for kind in _TRACES)
    raise UsageError(
        f"channels of a {type(model).__name__} cannot be permuted: align {known}"
    )


_Axes = dict[str, tuple[Wire, ...]]


def _wire(name: str, size: int) -> Wire:
    return ((name, size),)


def _layer(axes: _Axes, name: str, layer: Any, before: Wire, after: Wire | str) -> Wire:
    """A convolution or linear layer; the wire after it, which a text names anew."""
    wire = _wire(name, layer.weight.shape[0]) if isinstance(after, str) else after
    more = (None,) * (layer.weight.ndim - 2)
    axes[f"{name}.weight"] = wire, before, *more
    if layer.bias is not None:
        axes[f"{name}.bias"] = (wire,)
    return wire


_NEW = "new"


def _norm(axes: _Axes, name: str, norm: Any, wire: Wire):
    if isinstance(norm, NoNorm):
        return
    if isinstance(norm, GroupNorm) and norm.groups > 1:
        raise UsageError(
            "channels of networks with --norm group cannot be permuted from one group "
            "to another: align networks with another norm"
        )
    names = ["weight", "bias"]
    if isinstance(norm, BatchNorm):
        names += ["running_mean", "running_var"]
    axes |= {f"{name}.{each}": (wire,) for each in names}


def _shortcut(axes: _Axes, name: str, shortcut: Any, before: Wire) -> Wire:
    """The wire after a block's shortcut, which its branch shares."""
    if shortcut is None:
        return before
    if isinstance(shortcut, Conv2d):
        return _layer(axes, name, shortcut, before, _NEW)
    if hasattr(shortcut, "conv"):
        wire = _layer(axes, f"{name}.conv", shortcut.conv, before, _NEW)
        _norm(axes, f"{name}.norm", shortcut.norm, wire)
        return wire
    # Channels of zeros keep their places among the others, and are free themselves.
    assert before is not None  # noqa: S101, for the type checker
    zeros = [("before", shortcut.zeros_before), ("after", shortcut.zeros_after)]
    first, last = (((f"{name}.{side}", size),) if size else () for side, size in zeros)
    return *first, *before, *last


def _trace_vgg(model: VGG, axes: _Axes):
    wire: Wire = None
    for at, stage in enumerate(model.stages):
        for number, (conv, norm) in enumerate(stage):
            wire = _layer(axes, f"stages.{at}.{number}.0", conv, wire, _NEW)
            _norm(axes, f"stages.{at}.{number}.1", norm, wire)
    _trace_head(model, axes, wire)


def _trace_head(model: Any, axes: _Axes, wire: Wire):
    for at, linear in enumerate(getattr(model, "hidden", ())):
        wire = _layer(axes, f"hidden.{at}", linear, wire, _NEW)
    _layer(axes, "classifier", model.classifier, wire, None)


def _trace_mlp(model: MLP, axes: _Axes):
    _trace_head(model, axes, None)


def _trace_resnet(model: ResNet, axes: _Axes):
    wire = _layer(axes, "stem", model.stem, None, _NEW)
    _norm(axes, "norm", model.norm, wire)
    for at, block in enumerate(model.blocks):
        name = f"blocks.{at}"
        after = _shortcut(axes, f"{name}.shortcut", block.shortcut, wire)
        count = 3 if hasattr(block, "conv3") else 2
        for number in range(1, count + 1):
            conv, norm = (
                getattr(block, f"{part}{number}") for part in ("conv", "norm")
            )
            to = after if number == count else _NEW
            wire = _layer(axes, f"{name}.conv{number}", conv, wire, to)
            _norm(axes, f"{name}.norm{number}", norm, wire)
    _trace_head(model, axes, wire)


def _trace_preact(model: WideResNet | PreActResNet, axes: _Axes):
    wire = _layer(axes, "stem", model.stem, None, _NEW)
    for at, block in enumerate(model.blocks):
        name = f"blocks.{at}"
        _norm(axes, f"{name}.norm1", block.norm1, wire)
        after = _shortcut(axes, f"{name}.shortcut", block.shortcut, wire)
        inside = _layer(axes, f"{name}.conv1", block.conv1, wire, _NEW)
        _norm(axes, f"{name}.norm2", block.norm2, inside)
        wire = _layer(axes, f"{name}.conv2", block.conv2, inside, after)
    if isinstance(model, WideResNet):
        _norm(axes, "norm", model.norm, wire)
    _trace_head(model, axes, wire)


def _trace_airbench(model: Airbench, axes: _Axes):
    wire = _layer(axes, "first", model.first, None, _NEW)
    for at, group in enumerate(model.groups):
        name = f"groups.{at}"
        first = _layer(axes, f"{name}.conv1", group.conv1, wire, _NEW)
        _norm(axes, f"{name}.norm1", group.norm1, first)
        wire = _layer(axes, f"{name}.conv2", group.conv2, first, _NEW)
        _norm(axes, f"{name}.norm2", group.norm2, wire)
        if group.conv3 is not None:
            # Added to what the first has left.
            wire = _layer(axes, f"{name}.conv3", group.conv3, wire, first)
            _norm(axes, f"{name}.norm3", group.norm3, wire)
    _trace_head(model, axes, wire)


_TRACES: dict[type[eqx.Module], Any] = {
    VGG: _trace_vgg,
    MLP: _trace_mlp,
    ResNet: _trace_resnet,
    WideResNet: _trace_preact,
    PreActResNet: _trace_preact,
    Airbench: _trace_airbench,
}

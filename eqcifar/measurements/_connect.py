"""The loss on the line between two networks."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from ..config import ConnectOptions, TrainConfig
from ..errors import UsageError
from ..parallel import make_mesh, replicate
from ..runs import named_arrays, replace_arrays
from ..training import (
    Epoch,
    example_losses,
    make_recipe,
    predict,
    renew_statistics,
)
from ._align import align
from ._measured_network import MeasuredNetwork

Report = Callable[[int, int], None]
_Network = tuple[Any, eqx.nn.State]


def _silent(done: int, total: int):
    pass


@dataclasses.dataclass(frozen=True)
class Barrier:
    """How far a curve rises above the line between its ends, at most.

    - `value`: max_t L(t) - (1 - t) L(0) - t L(1), at `at`; 0 at the ends.
    - `standard_error`: of that difference at `at`, over images.
    """

    value: float
    standard_error: float
    at: float

    def interval(self) -> tuple[float, float]:
        """At 95 %, for the t that was found: that it is a maximum widens nothing."""
        half = 1.96 * self.standard_error
        return self.value - half, self.value + half


@dataclasses.dataclass(frozen=True)
class Line:
    """A split's loss and accuracy at each point of the line.

    - `loss`, `accuracy`: means over `examples` images; `loss_error` and
        `accuracy_error`: their standard errors.
    - `barrier`: of the loss; `error_barrier`: of 1 - accuracy.
    """

    examples: int
    loss: Float[np.ndarray, " points"]
    loss_error: Float[np.ndarray, " points"]
    accuracy: Float[np.ndarray, " points"]
    accuracy_error: Float[np.ndarray, " points"]
    barrier: Barrier
    error_barrier: Barrier


@dataclasses.dataclass(frozen=True)
class Connection:
    """What is between two networks.

    - `points`: t of (1 - t) A + t B.
    - `lines`: by split.
    - `distance`: ||A - B|| of the parameters as they are joined; `before`: as they
        were, where B was aligned.
    - `moved`: share of channels that aligning moved.
    """

    points: Float[np.ndarray, " points"]
    lines: Mapping[str, Line]
    distance: float
    before: float
    moved: float


def connect(
    first: MeasuredNetwork,
    second: MeasuredNetwork,
    options: ConnectOptions,
    *,
    devices: int | None = None,
    report: Report = _silent,
) -> Connection:
    """Measure loss and accuracy on the line between two networks.

    The running statistics of every BatchNorm are computed anew at each point, the ends
    too, from the training images that are measured: those of a mean of weights are not
    the mean of theirs, and without it barriers are of the statistics (Jordan et al.,
    2023, https://arxiv.org/abs/2211.08403). The barrier is that of Frankle et al.
    (2020), https://arxiv.org/abs/1912.05671.

    **Arguments:**

    - `first`, `second`: from `open_network`, of one architecture, on the same data.
    - `options`: images, points, and whether `second` is aligned, see `align`.
    - `devices`: how many; all by default.
    - `report`: called with the points done and their number.

    **Raises:**

    `UsageError` for two networks that no line joins, and as `align`.
    """
    _check(first, second)
    mesh = make_mesh(devices)
    of_split = options.of_a_split()
    names = list(dict.fromkeys(name.strip() for name in options.split.split(",")))
    chosen = {name: first.examples(name, of_split, mesh) for name in {"train", *names}}
    loss, config = first.loss(of_split), first.config
    ends = (first.model, first.state), (second.model, second.state)
    before, moved = _distance(*ends), 0.0
    if options.align == "weights":
        model, state, permutations = align(*ends[0], *ends[1])
        ends = ends[0], (model, state)
        places = np.concatenate([p != np.arange(len(p)) for p in permutations.values()])
        moved = float(places.mean())
    points = np.linspace(0.0, 1.0, options.points)
    train = chosen["train"]
    images = np.asarray(train.images[train.order])
    rows: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in names}
    for number, t in enumerate(points):
        report(number, len(points))
        model, state = _between(*ends, float(t))
        batch = min(options.batch_size, len(images))
        state = _renewed(model, state, images, config, batch, mesh)
        for name in names:
            part = chosen[name]
            logits = predict(
                model,
                state,
                np.asarray(part.images[part.order]),
                config.one_view(),
                mesh=mesh,
            )
            losses = example_losses(logits, part.chosen_labels, loss)
            right = logits.argmax(axis=1) == part.chosen_labels
            rows[name].append((losses.astype(float), right.astype(float)))
    report(len(points), len(points))
    lines = {
        name: _line(points, *map(np.stack, zip(*found, strict=True)))
        for name, found in rows.items()
    }
    return Connection(points, lines, _distance(*ends), before, moved)


def _check(first: MeasuredNetwork, second: MeasuredNetwork):
    one, other = first.config, second.config
    for name in ("arch", "dataset", "mean", "std", *one.variant):
        if getattr(one, name) != getattr(other, name):
            raise UsageError(
                f"no line joins {first.path} and {second.path}: {name} is "
                f"{getattr(one, name)} there and {getattr(other, name)} here"
            )
    shapes = [
        {name: x.shape for name, x in named_arrays(each.model, each.state).items()}
        for each in (first, second)
    ]
    if shapes[0] != shapes[1]:
        raise UsageError(
            f"no line joins {first.path} and {second.path}: their arrays differ in "
            "shape"
        )


def _distance(*ends: _Network) -> float:
    one, other = (
        jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array)) for model, _ in ends
    )
    squares = (
        ((np.asarray(a, float) - np.asarray(b, float)) ** 2).sum()
        for a, b in zip(one, other, strict=True)
    )
    return math.sqrt(sum(squares))


def _arrays(network: _Network) -> dict[str, Any]:
    return dict(named_arrays(*network))


def _between(one: _Network, other: _Network, t: float) -> _Network:
    there = _arrays(other)
    mixed = {
        name: ((1 - t) * array + t * there[name]).astype(array.dtype)
        if eqx.is_inexact_array(array)
        else array
        for name, array in _arrays(one).items()
    }
    return replace_arrays(*one, mixed)


def _renewed(
    model: Any,
    state: eqx.nn.State,
    images: np.ndarray,
    config: TrainConfig,
    batch: int,
    mesh: Mesh,
) -> eqx.nn.State:
    if not any(name.endswith("running_mean") for name in named_arrays(model, state)):
        return state
    batch = max(batch - batch % mesh.size, mesh.size)
    epoch = Epoch(
        jnp.asarray(images),
        jnp.zeros(len(images), jnp.int32),
        jnp.arange(len(images), dtype=jnp.int32),
        jax.random.key(0),
        1,
    )
    of_batch = dataclasses.replace(
        TrainConfig(), batch_size=batch, mean=config.mean, std=config.std
    )
    recipe = make_recipe(of_batch, len(images))
    model, state, epoch = replicate((model, state, epoch), mesh)
    return renew_statistics(model, state, epoch, recipe, mesh)


def _line(points: np.ndarray, losses: np.ndarray, right: np.ndarray) -> Line:
    def mean(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return table.mean(axis=1), table.std(axis=1, ddof=1) / math.sqrt(table.shape[1])

    return Line(
        losses.shape[1],
        *mean(losses),
        *mean(right),
        _barrier(points, losses),
        _barrier(points, 1.0 - right),
    )


def _barrier(points: np.ndarray, table: np.ndarray) -> Barrier:
    # Of the same images at all points, so that what they share cancels.
    ends = np.outer(1 - points, table[0]) + np.outer(points, table[-1])
    above = table - ends
    at = int(above.mean(axis=1).argmax())
    error = above[at].std(ddof=1) / math.sqrt(table.shape[1])
    return Barrier(float(above[at].mean()), float(error), float(points[at]))

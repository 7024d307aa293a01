"""Permutes the channels of one network to those of another, by their weights."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from scipy.optimize import linear_sum_assignment

from ..errors import UsageError
from ..models import Wire, channel_axes
from ..runs import named_arrays, replace_arrays

# Places of the other network's channels, in the order of ours, by group of channels.
Permutations = dict[str, np.ndarray]
# A descent that gains less than that part of itself has ended.
_LEAST_GAIN = 1e-9
_MOST_PASSES = 100


def align(
    model: Any, state: eqx.nn.State, other: Any, other_state: eqx.nn.State
) -> tuple[Any, eqx.nn.State, Permutations]:
    """Permute a network's channels so that its weights are near those of another.

    The function stays the same. Weight matching: the inner product of all parameters is
    made as large as possible, one group of channels after another, by linear
    assignment. A first pass goes from image to classifier and looks at those weights
    alone whose other channels are settled, so that a permuted copy of a network is
    found to be one. Ainsworth et al., 2023, algorithm 1, https://arxiv.org/abs/2209.04836

    **Arguments:**

    - `model`, `state`: the network to be near to.
    - `other`, `other_state`: the network to permute, of the same architecture.

    **Returns:**

    The permuted network and its state, and the permutations.

    **Raises:**

    `UsageError` for networks of two shapes, and for one whose channels cannot be
    permuted.
    """
    axes = channel_axes(model)
    ours = _numbers(named_arrays(model, state))
    theirs = _numbers(named_arrays(other, other_state))
    shapes = [{k: x.shape for k, x in arrays.items()} for arrays in (ours, theirs)]
    if shapes[0] != shapes[1] or channel_axes(other) != axes:
        raise UsageError("two networks can be aligned if they are of one architecture")
    found = _match(axes, ours, theirs)
    return *permute(other, other_state, found), found


def permute(
    model: Any, state: eqx.nn.State, permutations: Permutations
) -> tuple[Any, eqx.nn.State]:
    """The same function with its channels in another order.

    **Arguments:**

    - `model`, `state`: the network.
    - `permutations`: for each group of channels of `eqcifar.models.channel_axes`, the
        places of the old channels in their new order.
    """
    axes, arrays = channel_axes(model), named_arrays(model, state)
    moved = {
        name: jnp.asarray(_moved(np.asarray(array), axes.get(name, ()), permutations))
        for name, array in arrays.items()
    }
    return replace_arrays(model, state, moved)


def _numbers(arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.asarray(array, dtype=np.float64) for name, array in arrays.items()}


def _groups(wire: Wire) -> list[tuple[str, int, int]]:
    found, at = [], 0
    for name, size in wire or ():
        found.append((name, at, size))
        at += size
    return found


def _moved(
    array: np.ndarray,
    wires: tuple[Wire, ...],
    permutations: Permutations,
    but: int | None = None,
) -> np.ndarray:
    """The array with all axes but one permuted."""
    for axis, wire in enumerate(wires):
        if wire is not None and axis != but:
            places = [at + permutations[name] for name, at, _ in _groups(wire)]
            array = np.take(array, np.concatenate(places), axis)
    return array


def _match(
    axes: Mapping[str, tuple[Wire, ...]],
    ours: Mapping[str, np.ndarray],
    theirs: Mapping[str, np.ndarray],
) -> Permutations:
    found: Permutations = {}
    # Of each group, the arrays that have it, on which axis and from where.
    places: dict[str, list[tuple[str, int, int]]] = {}
    for name, wires in axes.items():
        for axis, wire in enumerate(wires):
            for group, at, size in _groups(wire):
                found.setdefault(group, np.arange(size))
                if not name.endswith((".running_mean", ".running_var")):
                    places.setdefault(group, []).append((name, axis, at))

    def products(group: str, settled: set[str]) -> np.ndarray:
        size = len(found[group])
        total = np.zeros((size, size))
        for name, axis, at in places[group]:
            wires = axes[name]
            others = (w for k, w in enumerate(wires) if k != axis)
            if {g for wire in others for g, _, _ in _groups(wire)} <= settled:
                rows = [
                    np.moveaxis(array, axis, 0)[at : at + size].reshape(size, -1)
                    for array in (
                        ours[name],
                        _moved(theirs[name], wires, found, but=axis),
                    )
                ]
                total += rows[0] @ rows[1].T
        return total

    settled: set[str] = set()
    for group in places:
        found[group] = linear_sum_assignment(products(group, settled), maximize=True)[1]
        settled.add(group)
    for _ in range(_MOST_PASSES):
        gained = False
        for group, before in found.items():
            table, at = products(group, settled), np.arange(len(before))
            now = linear_sum_assignment(table, maximize=True)[1]
            old, new = table[at, before].sum(), table[at, now].sum()
            if new > old + _LEAST_GAIN * abs(old):
                found[group], gained = now, True
        if not gained:
            break
    return found

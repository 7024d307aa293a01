from collections.abc import Mapping
from typing import TypeVar

import equinox as eqx
import jax
from jaxtyping import PyTree

from ..training import Model

_Tree = TypeVar("_Tree")


# An array, or a `jax.ShapeDtypeStruct` that stands for one.
Leaf = jax.Array | jax.ShapeDtypeStruct


def named_arrays(model: Model, state: eqx.nn.State) -> dict[str, Leaf]:
    """All arrays of a network by readable names, such as "stem.conv.weight".

    Names are key paths in the model. A value in the state goes by the path of its
    `StateIndex`, such as "norm.running_mean". What is not an array, such as the flag
    that `eqx.nn.inference_mode` sets, has no name.

    **Arguments:**

    - `model`, `state`: as `eqx.nn.make_with_state` makes them, of arrays or of
        `jax.ShapeDtypeStruct`.

    **Returns:**

    The arrays in the order of the model's leaves.
    """
    return named_leaves(_filled(model, state))


def replace_arrays(
    model: Model, state: eqx.nn.State, arrays: Mapping[str, Leaf]
) -> tuple[Model, eqx.nn.State]:
    """Put other arrays into a network, the inverse of `named_arrays`.

    **Arguments:**

    - `model`, `state`: the network, whose own arrays do not matter.
    - `arrays`: by the names that `named_arrays` gives it.

    **Returns:**

    A model and a state that differ from the given ones by their arrays only.
    """
    filled = replace_leaves(_filled(model, state), arrays)
    values, structure = jax.tree.flatten(state)
    # Tells for each index where its values are among the leaves.
    places = jax.tree.unflatten(structure, range(len(values)))

    def empty(part, new):
        if not _is_index(part):
            return new
        where = jax.tree.leaves(places.get(part))
        for place, value in zip(where, jax.tree.leaves(new), strict=True):
            values[place] = value
        return part

    model = jax.tree.map(empty, model, filled, is_leaf=_is_index)
    return model, jax.tree.unflatten(structure, values)


def named_leaves(tree: PyTree) -> dict[str, Leaf]:
    """The arrays of any tree by their key paths, joined with dots."""
    leaves = jax.tree.leaves_with_path(tree)
    return {_name(path): leaf for path, leaf in leaves if _is_array(leaf)}


def replace_leaves(tree: _Tree, arrays: Mapping[str, Leaf]) -> _Tree:
    """Put other arrays into a tree, the inverse of `named_leaves`."""
    return jax.tree.map_with_path(
        lambda path, leaf: arrays[_name(path)] if _is_array(leaf) else leaf, tree
    )


def _filled(model: Model, state: eqx.nn.State) -> PyTree:
    # The model with values in place of its indices, which knows all paths.
    return jax.tree.map(
        lambda part: state.get(part) if _is_index(part) else part,
        model,
        is_leaf=_is_index,
    )


def _is_index(part) -> bool:
    return isinstance(part, eqx.nn.StateIndex)


def _is_array(leaf) -> bool:
    return isinstance(leaf, Leaf)


def _name(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")

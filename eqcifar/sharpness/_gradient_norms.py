"""Squared norms of each example's gradients, without the gradients.

For a layer with weight W, the gradient of one example is A' B, with the T patches A
(T x P) that the layer saw and the cotangents B (T x O) of its outputs. Its squared norm
is the sum of squares of that product, of T P O operations, or
sum_ts (A A')_ts (B B')_ts, which is cheaper where there are few patches and many
weights. Either can be told apart by output, which filter-wise scalings need. Weighed
by w_po^2, it is sum_ts sum_o (sum_p A_tp A_sp w_po^2) B_to B_so, of which the inner sum
is one product for all examples and cotangents.

Goodfellow, 2015, https://arxiv.org/abs/1510.01799; Rochette et al., 2019,
https://arxiv.org/abs/1912.06015
"""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap
from jax.extend.core import ClosedJaxpr, Jaxpr, Var
from jaxtyping import Array, Float, PyTree

from eqcifar.models import Conv2d

from ._flips import LAYERS
from ._network import Network, scaling

# For each parameter array, whether its gradients need not be formed.
Tapped = tuple[bool, ...]
# Vectors that are taken through a network at once.
TOGETHER = 10


def gradient_norms(
    network: Network,
    image: Float[Array, "..."],
    cotangents: Callable[[Float[Array, " classes"]], Float[Array, "outputs classes"]],
    scaled: tuple[str, ...],
    tapped: Tapped,
) -> dict[str, Float[Array, "outputs leaves"]]:
    """Return ||D_j J_j'c||^2 of one example for each parameter array j.

    To be called under `jax.vmap`, so that examples share the network's passes.

    **Arguments:**

    - `cotangents`: from the logits to vectors c; all are taken through one
        linearisation, at most `TOGETHER` at once.
    - `scaled`: names of D^2, see `scaling`.
    - `tapped`: from `tappable`.

    **Returns:**

    The norms by name of D^2.
    """
    leaves, treedef = jax.tree.flatten(network.params)
    slots = [jnp.zeros(len(scaled), x.dtype) for x in leaves]
    taken = [
        slot if tap else x for slot, x, tap in zip(slots, leaves, tapped, strict=True)
    ]
    squares = [jax.tree.leaves(scaling(network.params, name)) for name in scaled]

    def logits_at(taken: list[Array]) -> Array:
        own = [x if tap else y for x, y, tap in zip(leaves, taken, tapped, strict=True)]
        model = eqx.combine(jax.tree.unflatten(treedef, own), network.static)
        model = _tap(network, model, taken, tapped, scaled)
        return network.run(lambda: model, image[None])[0]

    logits, pull = jax.vjp(logits_at, taken)

    def norms(vectors: Float[Array, "some classes"]) -> Float[Array, "some leaves d"]:
        (found,) = jax.vmap(pull)(vectors)
        each = [
            value
            if tap
            else jnp.stack([_sum_of_squares(value, d[at]) for d in squares], axis=1)
            for at, (value, tap) in enumerate(zip(found, tapped, strict=True))
        ]
        return jnp.stack(each, axis=1)

    vectors = cotangents(logits)
    parts = math.ceil(len(vectors) / TOGETHER)
    # As in the forward pass, see `Network`.
    with jax.default_matmul_precision("highest"):
        if parts == 1:
            found = norms(vectors)
        else:
            missing = -len(vectors) % parts
            padded = jnp.pad(vectors, ((0, missing), (0, 0)))
            found = lax.map(norms, padded.reshape(parts, -1, len(logits)))
            found = found.reshape(-1, *found.shape[2:])[: len(vectors)]
    return dict(zip(scaled, jnp.moveaxis(found, 2, 0), strict=True))


def _sum_of_squares(gradients: Array, square: Array) -> Array:
    return jnp.sum(square[None] * gradients**2, range(1, gradients.ndim))


def tappable(network: Network, images: Float[Array, "batch ..."]) -> Tapped:
    """Tell whose gradients are products that need not be formed.

    Those are the weights of convolutions and linear layers that are used once,
    by a call of their layer, as the traced program shows. A weight that is
    shared, read by hand or used in a loop has its gradient formed.
    """
    leaves, treedef = jax.tree.flatten(network.params)
    slots = [jnp.zeros(1, x.dtype) for x in leaves]
    weights = _weights(network)

    def logits(leaves: list[Array], slots: list[Array]) -> Array:
        model = eqx.combine(jax.tree.unflatten(treedef, leaves), network.static)
        tapped = _tap(network, model, slots, weights, ("plain",))
        return network.run(lambda: tapped, images[:1])

    jaxpr = jax.make_jaxpr(logits)(leaves, slots).jaxpr
    each = zip(
        weights, jaxpr.invars[: len(leaves)], jaxpr.invars[len(leaves) :], strict=True
    )
    return tuple(
        of_layer and _uses(jaxpr, weight) == _uses(jaxpr, slot) == 1
        for of_layer, weight, slot in each
    )


def footprint(
    network: Network, images: Float[Array, "batch ..."], tapped: Tapped, outputs: int
) -> float:
    """About how many bytes an example takes in `gradient_norms` of `outputs` vectors.

    For each pass, forward or back, those of all that a forward pass computes: more
    than is kept, and less than is kept with the patches of the largest layer.
    """
    one = jax.eval_shape(lambda: images[:1])
    program = jax.make_jaxpr(lambda params, x: network(params, x))(network.params, one)
    leaves = jax.tree.leaves(network.params)
    formed = sum(x.nbytes for x, tap in zip(leaves, tapped, strict=True) if not tap)
    outputs = math.ceil(outputs / math.ceil(outputs / TOGETHER))
    return (1 + outputs) / 3 * _bytes_computed(program.jaxpr) + outputs * formed


def _bytes_computed(program: Jaxpr) -> int:
    total = 0
    for equation in program.eqns:
        inner = [
            each.jaxpr if isinstance(each, ClosedJaxpr) else each
            for each in equation.params.values()
            if isinstance(each, ClosedJaxpr | Jaxpr)
        ]
        if inner:
            total += sum(map(_bytes_computed, inner))
        else:
            shapes: list[Any] = [x.aval for x in equation.outvars]
            total += sum(x.size * x.dtype.itemsize for x in shapes)
    return total


def _uses(jaxpr: Jaxpr, variable: Var) -> float:
    """How often a program uses a variable; any number of times in a loop."""
    count = float(sum(variable is out for out in jaxpr.outvars))
    for equation in jaxpr.eqns:
        at = [i for i, x in enumerate(equation.invars) if x is variable]
        name = equation.primitive.name
        if not at:
            continue
        if name in ("jit", "pjit", "closed_call", "remat", "remat2", "checkpoint"):
            inner: Any = equation.params["jaxpr"]
            inner = inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner
            count += sum(_uses(inner, inner.invars[i]) for i in at)
        elif name in ("scan", "while", "cond"):
            return math.inf
        else:
            count += len(at)
    return count


def _is_layer(node: Any) -> bool:
    # A subclass may do more with its weight than a product; of a shared one, the place
    # is empty.
    if type(node) not in LAYERS or not eqx.is_inexact_array(node.weight):
        return False
    if isinstance(node, eqx.nn.Conv) and (
        node.groups > 1 or node.padding_mode != "ZEROS"
    ):
        return False
    spatial = 2 if isinstance(node, Conv2d) else getattr(node, "num_spatial_dims", 0)
    # One axis more is that of stacked layers.
    return node.weight.ndim == 2 + spatial


def _weights(network: Network) -> Tapped:
    """For each parameter array, whether it is the weight of a layer known here."""

    def mark(node: Any) -> Any:
        marks = jax.tree.map(eqx.is_inexact_array, node)
        marks = jax.tree.map(lambda mark: False if mark else None, marks)
        return (
            eqx.tree_at(lambda x: x.weight, marks, True) if _is_layer(node) else marks
        )

    marks = jax.tree.leaves(jax.tree.map(mark, network.model, is_leaf=_is_layer))
    return tuple(itertools.compress(marks, network.are_params))


def _tap(
    network: Network,
    model: PyTree,
    slots: Sequence[Array],
    tapped: Tapped,
    scaled: tuple[str, ...],
) -> PyTree:
    """Have each tapped layer leave its norms in its slot, as the slot's gradient."""
    own = zip(slots, tapped, strict=True)
    fixed = jnp.zeros(()), False
    of_leaves = (next(own) if param else fixed for param in network.are_params)

    def replace(node: Any) -> Any:
        count = len(jax.tree.leaves(eqx.filter(node, eqx.is_inexact_array)))
        mine = list(itertools.islice(of_leaves, count))
        if not _is_layer(node):
            return node
        # A layer's weight is the first of its arrays.
        slot, tap = mine[0]
        return _with_slot(node, slot, scaled) if tap else node

    return jax.tree.map(replace, model, is_leaf=_is_layer)


@cache
def _tapped_kind(kind: type) -> type:
    """A layer of the same class, for code that asks for it."""

    class Tapped(kind):
        slot: Array
        plain: Any
        scaled: tuple[str, ...] = eqx.field(static=True)

        def __call__(self, x: Array, *, key: Any = None) -> Array:
            del key
            return _call(self.plain, self.scaled, self.slot, x)

    return Tapped


def _with_slot(layer: Any, slot: Array, scaled: tuple[str, ...]) -> Any:
    tapped = object.__new__(_tapped_kind(type(layer)))
    for name, value in vars(layer).items():
        object.__setattr__(tapped, name, value)
    for name, value in (("slot", slot), ("plain", layer), ("scaled", scaled)):
        object.__setattr__(tapped, name, value)
    return tapped


def _call(layer: Any, scaled: tuple[str, ...], slot: Array, x: Array) -> Array:
    arrays, static = eqx.partition(layer, eqx.is_array)
    bias, weight = arrays.bias, arrays.weight

    def plain(x: Array, weight: Array, bias: Array | None) -> Array:
        full = eqx.tree_at(
            lambda y: (y.weight, y.bias),
            static,
            (weight, bias),
            is_leaf=lambda leaf: leaf is None,
        )
        return full(x)

    @jax.custom_vjp
    def call(slot: Array, x: Array, weight: Array, bias: Array | None) -> Array:
        return plain(x, weight, bias)

    def forward(slot, x, weight, bias):
        return plain(x, weight, bias), (x, weight, bias)

    def backward(kept, cotangent):
        x, weight, bias = kept
        _, pull = jax.vjp(lambda x, bias: plain(x, weight, bias), x, bias)
        norms = _norms(static, scaled)(weight, x[None], cotangent[None])
        dx, dbias = pull(cotangent)
        return norms, dx, jnp.zeros_like(weight), dbias

    call.defvjp(forward, backward)
    return call(slot, x, weight, bias)


def _norms(layer: Any, scaled: tuple[str, ...]) -> Callable[..., Array]:
    """Norms from the inputs and cotangents of all calls within one example.

    A layer that the model maps over tokens is called once with a new axis, which its
    inputs have too; over it gradients are to be added before they are squared. The axis
    of several cotangents, to which the same inputs belong, comes next, and last that of
    the examples.
    """
    several = _norms_of_several(layer, scaled)

    @custom_vmap
    def norms(weight: Array, x: Array, cotangent: Array) -> Array:
        return several(weight, x, cotangent[None])[0]

    @norms.def_vmap
    def _(size, batched, weight, x, cotangent):
        _, of_x, of_cotangent = batched
        if not of_x:
            return several(weight, x, cotangent), True
        if not of_cotangent:
            cotangent = jnp.broadcast_to(cotangent, (size, *cotangent.shape))
        # The sum of what is returned is taken over the axis.
        joined = [y.reshape(-1, *y.shape[2:]) for y in (x, cotangent)]
        total = norms(weight, *joined)
        return jnp.zeros((size, *total.shape), total.dtype).at[0].set(total), True

    return norms


def _norms_of_several(layer: Any, scaled: tuple[str, ...]) -> Callable[..., Array]:
    """The same for several cotangents, whose products share what the layer saw."""
    compute = partial(_weight_norms, layer, scaled)
    several = custom_vmap(compute)

    @several.def_vmap
    def _(size, batched, weight, x, cotangents):
        axes = tuple(0 if each else None for each in batched)
        every = jax.vmap(compute, in_axes=axes)
        if batched != [False, True, True]:
            return every(weight, x, cotangents), True
        patches, outputs, _ = _as_product(layer, weight, x[0], cotangents[0])
        together = size
        if _theta_from(patches, outputs, scaled) == "pairs":
            rows, columns = patches.shape
            together = _ROOM // (rows * (rows + 1) // 2 * columns * x.dtype.itemsize)
        elif jax.default_backend() == "cpu":
            copies = _by_product(patches, outputs, scaled) and not patches.shifts(
                outputs
            )
            if copies or weight.size >= _LARGE:
                # What one example takes fits a cache, and what a batch takes does not.
                together = 1
        if together >= size:
            return every(weight, x, cotangents), True

        def one(each):
            return compute(weight, *each)

        together = math.ceil(size / math.ceil(size / max(together, 1)))
        batch = together if together > 1 else None
        return lax.map(one, (x, cotangents), batch_size=batch), True

    return several


# Weights from which on examples are taken one by one.
_LARGE = 2**15
# Bytes for the products of pairs of rows.
_ROOM = 2**25
# What it takes to write a number of a product and to read it, in multiplications.
_TRAFFIC = 100


def _theta_from(
    patches: "_Patches", outputs: Array, scaled: tuple[str, ...]
) -> Literal["product", "pairs"] | None:
    """How the norms that theta weighs are cheapest to compute, if they are wanted."""
    if "theta" not in scaled:
        return None
    count, rows, _ = outputs.shape
    pairs = rows * (rows + 1) // 2
    return "pairs" if pairs <= count * (rows + _TRAFFIC) else "product"


def _by_product(patches: "_Patches", outputs: Array, scaled: tuple[str, ...]) -> bool:
    """Whether norms come from gradients, and not from products of patches."""
    count, rows, width = outputs.shape
    gram = patches.gram_cost + count * rows**2 * width
    product = count * math.prod(patches.shape) * width
    return product <= gram or _theta_from(patches, outputs, scaled) == "product"


def _weight_norms(
    layer: Any,
    scaled: tuple[str, ...],
    weight: Array,
    x: Float[Array, "calls ..."],
    cotangents: Float[Array, "outputs calls ..."],
) -> Float[Array, "outputs scaled"]:
    patches, outputs, weight = _as_product(layer, weight, x, cotangents)
    square = jnp.square(weight)
    found = {}
    if _by_product(patches, outputs, scaled):
        gradient, square_of = patches.product(outputs, square)
        gradient = jnp.square(gradient)
        by_filter = jnp.sum(gradient, (0, 1))
        found["theta"] = jnp.sum(gradient * square_of, (0, 1, 3))
    else:
        products = jnp.einsum("ts,kso->kto", patches.gram(), outputs)
        by_filter = jnp.sum(outputs * products, 1)
    if _theta_from(patches, outputs, scaled) == "pairs":
        found["theta"] = _by_pairs(patches.matrix(), outputs, square)
    found["plain"] = jnp.sum(by_filter, 1)
    found["filter"] = by_filter @ jnp.mean(square, 0)
    return jnp.stack([found[name] for name in scaled], axis=1)


def _by_pairs(
    inputs: Float[Array, "rows inputs"],
    outputs: Float[Array, "outputs rows width"],
    square: Float[Array, "inputs width"],
) -> Float[Array, " outputs"]:
    """sum_po square_po (A'B)_po^2, from all products of two rows.

    Those of the inputs meet the squares once, for all examples and outputs.
    """
    first, second = np.triu_indices(len(inputs))
    of_inputs = (inputs[first] * inputs[second]) @ square
    times = np.where(first == second, 1, 2).astype(inputs.dtype)[:, None]
    of_outputs = outputs[:, first] * outputs[:, second]
    return jnp.einsum("qo,kqo->k", times * of_inputs, of_outputs)


def _as_product(
    layer: Any, weight: Array, x: Array, cotangents: Array
) -> tuple["_Patches", Float[Array, "outputs patches width"], Array]:
    """Gradients as A'B, with A in common, and the weight in their shape."""
    if isinstance(layer, eqx.nn.Linear):
        # A scalar in or out has no axis of its own.
        x = x.reshape(len(x), -1)
        cotangents = cotangents.reshape(*cotangents.shape[:2], -1)
        return _Patches(x, (), (), (), ()), cotangents, weight.T
    kernel = weight.shape[2:]
    if isinstance(layer, Conv2d):
        stride, dilation, padding = (layer.stride,) * 2, (1, 1), layer.padding
    else:
        stride, dilation, padding = layer.stride, layer.dilation, layer.padding
    if not getattr(layer, "channels_last", False):
        x, cotangents = jnp.moveaxis(x, 1, -1), jnp.moveaxis(cotangents, 2, -1)
    if isinstance(padding, int):
        padding = ((padding, padding),) * len(kernel)
    elif isinstance(padding, str):
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
        padding = lax.padtype_to_pads(x.shape[1:-1], reach, stride, padding)
    patches = _Patches(x, kernel, tuple(stride), tuple(dilation), tuple(padding))
    weight = jnp.moveaxis(weight, (0, 1), (-1, -2))
    return (
        patches,
        cotangents.reshape(len(cotangents), -1, cotangents.shape[-1]),
        weight.reshape(-1, weight.shape[-1]),
    )


class _Patches:
    """What a layer's weight was multiplied with, a row for each output position."""

    def __init__(self, x, kernel, stride, dilation, padding):
        self.kernel, self.stride, self.dilation = kernel, stride, dilation
        zero = jnp.zeros((), x.dtype)
        edges = [(0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0)]
        self.x = lax.pad(x, zero, edges)
        spatial = self.x.shape[1:-1]
        self.counts = tuple(
            (size - (k - 1) * d - 1) // s + 1
            for size, k, s, d in zip(spatial, kernel, stride, dilation, strict=True)
        )
        # For each weight of a filter, the positions that it meets.
        self.meets = [
            tuple(
                slice(at * d, at * d + (count - 1) * s + 1, s)
                for at, d, s, count in zip(
                    offset, dilation, stride, self.counts, strict=True
                )
            )
            for offset in itertools.product(*map(range, kernel))
        ]

    @property
    def shape(self) -> tuple[int, int]:
        rows = len(self.x) * math.prod(self.counts)
        return rows, len(self.meets) * self.x.shape[-1]

    def product(
        self, outputs: Array, square: Array
    ) -> tuple[Float[Array, "part rest outputs width"], Array]:
        """A'B, and the squares of the weight in its shape."""
        if self.shifts(outputs):
            return self._shifted_product(outputs, square)
        product = jnp.einsum("tp,kto->pko", self.matrix(), outputs)
        return product[:, None], square[:, None, None]

    def shifts(self, outputs: Array) -> bool:
        """Whether moving outputs along the first axis takes less than more patches."""
        if not self.kernel or self.stride[0] > 1:
            return False
        rows, columns = self.shape
        moved = columns // self.kernel[0] + self.kernel[0] * outputs[:, 0].size
        positions = rows // self.counts[0] * self.x.shape[1]
        return positions * moved < rows * (columns + outputs[:, 0].size)

    def _shifted_product(self, outputs: Array, square: Array) -> tuple[Array, Array]:
        calls, length = self.x.shape[:2]
        each, count, width = self.kernel[0], len(outputs), outputs.shape[-1]
        # The places of a filter in the first row.
        rest = [(slice(None), *meet[1:]) for meet in self.meets]
        rest = rest[: len(rest) // each]
        inputs = jnp.concatenate([self.x[(slice(None), *at)] for at in rest], -1)
        outputs = outputs.reshape(count, calls, *self.counts, width)
        outputs = jnp.moveaxis(outputs, 0, -2)
        moved = []
        for at in range(each):
            before = at * self.dilation[0]
            edges = [(0, 0)] * outputs.ndim
            edges[1] = before, length - self.counts[0] - before
            moved.append(jnp.pad(outputs, edges))
        product = jnp.einsum(
            "tp,tiko->piko",
            inputs.reshape(-1, inputs.shape[-1]),
            jnp.stack(moved, -3).reshape(-1, each, count, width),
        )
        square = jnp.moveaxis(square.reshape(each, -1, width), 0, 1)
        return product, square[:, :, None]

    @property
    def gram_cost(self) -> int:
        rows, columns = self.shape
        return min(rows**2 * columns, self._shifted_cost)

    @property
    def _shifted_cost(self) -> int:
        positions = math.prod(self.x.shape[:-1])
        return positions**2 * self.x.shape[-1] + len(self.meets) * self.shape[0] ** 2

    def matrix(self) -> Float[Array, "patches inputs"]:
        pieces = [self.x[(slice(None), *meet)] for meet in self.meets]
        return jnp.concatenate(pieces, -1).reshape(self.shape)

    def gram(self) -> Float[Array, "patches patches"]:
        rows, columns = self.shape
        if rows**2 * columns <= self._shifted_cost:
            matrix = self.matrix()
            return matrix @ matrix.T
        # Of patches that overlap, the products of pixels are needed once.
        pixels = self.x.reshape(-1, self.x.shape[-1])
        products = (pixels @ pixels.T).reshape(self.x.shape[:-1] * 2)
        every = slice(None)
        total = sum(products[(every, *meet, every, *meet)] for meet in self.meets)
        return jnp.reshape(total, (rows, rows))

"""A trained model as a function of its parameters."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from eqcifar.errors import UsageError, unknown
from eqcifar.models import check_real
from eqcifar.parallel import jit
from eqcifar.sam import adaptive_scale


def _call(model: PyTree, x: Array, state: eqx.nn.State) -> Array:
    return model(x, state)[0]


class Network(eqx.Module):
    """The map theta -> f_theta(x), with everything that is not trained held fixed.

    Statistics of normalisation layers are those in `state` (inference mode), there
    is no dropout, and products use the highest matmul precision. Parameters are all
    floating-point arrays of the model, or some of them.
    """

    params: PyTree
    static: PyTree
    state: eqx.nn.State
    batch_statistics: bool = eqx.field(static=True)
    call: Callable[[PyTree, Array, eqx.nn.State], Array] = eqx.field(static=True)

    def __init__(
        self,
        model: PyTree,
        state: eqx.nn.State,
        *,
        batch_statistics: bool = False,
        call: Callable[[PyTree, Array, eqx.nn.State], Array] = _call,
        only: Sequence[str] = (),
    ):
        """Split a model into parameters and the rest.

        **Arguments:**

        - `model`, `state`: called as `(x, state) -> (logits, state)` on one example.
        - `batch_statistics`: normalise by the batch at hand, as in training. The
            loss is then no sum over examples and its value depends on the batch:
            only the general path and matvecs are defined.
        - `call`: how else `(model, x, state)` makes logits; `model` may then be any
            PyTree.
        - `only`: patterns of names in `leaves`, such as "blocks.3.*"; all other arrays
            are held fixed, so that the Hessian is its block of these parameters.

        **Raises:**

        `UsageError` where there are no such parameters.
        """
        if not batch_statistics:
            model = eqx.nn.inference_mode(model)
        self.params, self.static = eqx.partition(model, eqx.is_inexact_array)
        if only:
            self.params, fixed = eqx.partition(self.params, _chosen(self.params, only))
            self.static = eqx.combine(self.static, fixed)
        self.state = state
        self.batch_statistics = batch_statistics
        self.call = call
        if not self.leaves:
            raise UsageError("the model has no floating-point arrays to differentiate")
        check_real(self.params)

    @property
    def model(self) -> PyTree:
        """The whole model."""
        return eqx.combine(self.params, self.static)

    @property
    def leaves(self) -> tuple[str, ...]:
        """Names of the parameter arrays, in the order of the per-layer results."""
        return _names(self.params)

    @property
    def are_params(self) -> tuple[bool, ...]:
        """Whether each floating-point array of the model is one of the parameters."""
        arrays = eqx.filter(self.model, eqx.is_inexact_array)
        own = set(self.leaves)
        return tuple(name in own for name in _names(arrays))

    def along(self, vector: PyTree) -> PyTree:
        """A vector in the shape of the whole model, 0 where that is held fixed."""
        inexact, rest = eqx.partition(self.static, eqx.is_inexact_array)
        return eqx.combine(vector, jax.tree.map(jnp.zeros_like, inexact), rest)

    @property
    def size(self) -> int:
        """The number of trainable parameters P."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))

    @property
    def vector_bytes(self) -> int:
        """Bytes of a vector of P numbers in the dtype of the first array."""
        return self.size * jax.tree.leaves(self.params)[0].dtype.itemsize

    def __call__(
        self, params: PyTree, images: Float[Array, "batch ..."]
    ) -> Float[Array, "batch classes"]:
        """Return the logits of a batch at `params`."""
        model = eqx.combine(params, self.static)
        return self.run(lambda: model, images)

    def run(
        self,
        build: Callable[..., PyTree],
        images: Float[Array, "batch ..."],
        *rows: Float[Array, "batch ..."],
    ) -> Float[Array, "batch classes"]:
        """Return the logits of a batch, from the model `build(*rows)` of each example.

        What the models have in common is computed with for all examples at once.
        """

        # The state goes in as an argument: a layer in training mode would otherwise
        # mark our own copy as used up.
        def one(x, state, *row):
            return self.call(build(*row), x, state)

        axes = (0, None, *(0 for _ in rows))
        apply = jax.vmap(one, in_axes=axes, axis_name="batch")
        with jax.default_matmul_precision("highest"):
            return apply(images, self.state, *rows)

    def classes(self, images: Float[Array, "batch ..."]) -> int:
        """Return the number of logits."""
        return eqx.filter_eval_shape(self, self.params, images).shape[1]


def _names(arrays: PyTree) -> tuple[str, ...]:
    paths = jax.tree_util.tree_leaves_with_path(arrays)
    return tuple(
        jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in paths
    )


def _chosen(params: PyTree, only: Sequence[str]) -> PyTree:
    """Which arrays have a name that is like one of the patterns."""
    names = _names(params)
    for pattern in only:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise unknown("parameter", pattern, names)
    like = [any(fnmatchcase(name, pattern) for pattern in only) for name in names]
    return jax.tree.unflatten(jax.tree.structure(params), like)


def scaling(params: PyTree, kind: str) -> PyTree:
    """Return D^2, the diagonal by which a trace tr(D H D) weighs each parameter.

    `plain`: 1. `theta`: theta_j^2, which makes the trace of the NTK that of the
    connectivity tangent kernel (Kim et al. 2023), invariant to node-wise rescaling.
    `filter`: ||theta_k||^2 / n_k for the n_k weights of filter k (leading axis;
    each entry of a vector is its own filter), so that tr(D H D) is the expected
    curvature along a random filter-normalised direction (Li et al. 2018).
    `asam`: (|theta_j| + 0.01)^2 for weights, and 1 for biases and the scales and shifts
    of normalisation, as in ASAM (Kwon et al. 2021).
    """
    if kind == "plain":
        return jax.tree.map(jnp.ones_like, params)
    if kind == "theta":
        return jax.tree.map(jnp.square, params)
    if kind == "filter":
        return jax.tree.map(_filter_scale, params)
    if kind == "asam":
        return jax.tree.map(jnp.square, adaptive_scale(params))
    raise UsageError(f"unknown scaling {kind!r}: choose plain, theta, filter or asam")


def _filter_scale(leaf: Array) -> Array:
    axes = tuple(range(1, leaf.ndim))
    return jnp.broadcast_to(jnp.mean(leaf**2, axes, keepdims=True), leaf.shape)


def check_independent(network: Network, images: Float[Array, "batch ..."]) -> None:
    """Refuse a network whose logits for one example depend on its batch.

    **Raises:**

    `UsageError` when another partner changes the first example's logits: the
    per-example path would then differentiate another function.
    """
    if network.batch_statistics:
        raise UsageError(
            "batch statistics couple the examples, so per-example traces are not "
            "defined: use inference mode, or the general path (method='general')"
        )
    if coupled(network, images):
        raise UsageError(
            "one example's logits depend on the rest of its batch even in inference "
            "mode: per-example traces are not defined. Use method='general', or give "
            "the layer at fault an `inference` flag"
        )


def coupled(network: Network, images: Float[Array, "batch ..."]) -> bool:
    """Whether another partner changes the first example's logits."""
    if network.batch_statistics:
        return True
    pair = images[jnp.array([0, -1])]
    alone = images[jnp.array([0, 0])]
    together, apart = _logits(network, pair)[0], _logits(network, alone)[0]
    scale = np.abs(np.asarray(apart)).max()
    return bool(np.abs(np.asarray(together - apart)).max() > 1e-3 * scale)


@jit
def _logits(network: Network, images: Array) -> Array:
    return network(network.params, images)


def directional(
    network: Network, images: Float[Array, "batch ..."], tangent: PyTree
) -> tuple[
    Float[Array, "batch classes"],
    Float[Array, "batch classes"],
    Float[Array, "batch classes"],
]:
    """Return f, df[v] and d2f[v, v] of a batch by a jvp of a jvp."""
    return second_order(lambda p: network(p, images), network.params, tangent)


def second_order(
    function: Callable[[PyTree], Array], at: PyTree, tangent: PyTree
) -> tuple[Array, Array, Array]:
    """Return g, dg[v] and d2g[v, v]."""

    def first(point):
        return jax.jvp(function, (point,), (tangent,))

    (value, slope), (_, bend) = jax.jvp(first, (at,), (tangent,))
    return value, slope, bend

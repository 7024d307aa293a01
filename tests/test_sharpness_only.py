"""Some parameters alone: the blocks of a dense Hessian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from eqcifar import measurements, sharpness
from eqcifar.errors import UsageError
from eqcifar.sharpness._flips import flipped_directional, sign_count
from eqcifar.sharpness._network import directional

from .sharpness_tools import close, data, dense, make, network

KEY = jax.random.key(0)
BLOCKS = {
    "gelu": ["layers.1.*", "layers.2.bias"],
    "resnet": ["stem.*", "*norm*.weight"],
}


def entries(whole, only):
    """Which entries of a flat vector belong to the block."""
    part = sharpness.Network(*make_pair(whole), only=only)
    sizes = [leaf.size for leaf in jax.tree.leaves(whole.params)]
    kept = np.repeat([name in part.leaves for name in whole.leaves], sizes)
    return part, kept


def make_pair(whole):
    return whole.model, whole.state


@pytest.mark.parametrize("kind", list(BLOCKS))
def test_a_block_is_that_of_the_dense_hessian(x64, kind):
    whole, examples = network(kind), data(4)
    truth = dense(whole, examples)
    part, kept = entries(whole, BLOCKS[kind])
    assert 0 < kept.sum() == part.size < whole.size
    block = truth.hessian("ce").mean(0)[np.ix_(kept, kept)]
    outer = truth.ggn("ce").mean(0)[np.ix_(kept, kept)]
    found = measurements.compute_measure(
        part, examples, "eigenvalues", "ce", probes=2, top=2, rtol=1e-8, key=KEY
    ).values
    for name, matrix in (("lambda", block), ("lambda_ggn", outer)):
        values = np.linalg.eigvalsh(matrix)[::-1]
        close([found[f"{name}_{k}"].value for k in (1, 2)], values[:2], 1e-6)
    traces = sharpness.output_traces(part, examples, "ce")
    close(traces.estimate().value, np.trace(outer))
    theta = np.asarray(ravel_pytree(whole.params)[0])[kept]
    close(traces.estimate("theta").value, np.diag(outer) @ theta**2)
    assert tuple(traces.per_leaf()) == part.leaves


def test_directions_leave_what_is_fixed_where_it_is(x64):
    whole, examples = network("gelu"), data(4)
    part, kept = entries(whole, ["layers.1.*"])
    truth = dense(whole, examples)
    flat, unravel = ravel_pytree(part.params)
    vector = np.random.default_rng(0).normal(size=flat.size)
    images = jnp.asarray(examples.images)
    signs = jnp.ones((len(images), sign_count(part)))
    _, slope, bend = directional(part, images, unravel(jnp.asarray(vector)))
    flipped = flipped_directional(part, images, unravel(jnp.asarray(vector)), signs)
    close(slope, truth.j[..., kept] @ vector)
    s = truth.s[:, :, kept][..., kept]
    close(bend, np.einsum("p,icpq,q->ic", vector, s, vector))
    close(flipped[1], slope)
    close(flipped[2], bend)


def test_all_parameters_are_the_network_as_it_is(x64):
    model, state = make("relu")
    whole = sharpness.Network(model, state)
    every = sharpness.Network(model, state, only=["*"])
    assert every.leaves == whole.leaves
    assert jax.tree.structure(every) == jax.tree.structure(whole)


def test_a_name_that_no_parameter_has(x64):
    with pytest.raises(UsageError, match=r"did you mean 'layers\.0\.weight'"):
        network("relu", only=["layers.0.wieght"])

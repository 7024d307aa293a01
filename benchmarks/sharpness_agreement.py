"""Curvature here, in curvlinops and in PyHessian: float64, copied weights.

Dense traces on a small ResNet; matrix products, eigenvalues and single probes on a run.

    python -m benchmarks sharpness_agreement RUN DATASET
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax.flatten_util import ravel_pytree

from eqcifar import data, models, sharpness
from eqcifar.runs import load_model
from eqcifar.sharpness import Examples, Network

from .peers import torch_sharpness as peers
from .shared import Row, parser, row, store


def load(run: str, dataset: str) -> tuple[Network, dict[str, Examples], Any]:
    """The network of a run and both splits in one fixed random order."""
    loaded = load_model(run)
    config, images = loaded.config, data.load(dataset)

    def prepare(x):
        return data.normalise(x, config.mean, config.std)

    splits = {"train": images.train, "test": images.test}
    examples = {
        name: Examples(split.images, split.labels, prepare).sample(len(split), 0)
        for name, split in splits.items()
    }
    return Network(loaded.model, loaded.state), examples, loaded


def first(examples: Examples, count: int) -> Examples:
    """The first so many of a random order."""
    return examples.take(examples.order[:count])


def as_float64(tree: Any, arrays: list[np.ndarray] | None = None) -> Any:
    """Every floating-point leaf in float64, with other values if they are given."""
    leaves, treedef = jax.tree.flatten(tree)
    floats = [eqx.is_inexact_array(leaf) for leaf in leaves]
    source = iter(arrays or [np.asarray(x) for x in leaves if eqx.is_inexact_array(x)])
    filled = [
        jnp.asarray(np.asarray(next(source), np.float64).reshape(leaf.shape))
        if is_float
        else leaf
        for leaf, is_float in zip(leaves, floats, strict=True)
    ]
    return jax.tree.unflatten(treedef, filled)


def relative(ours: Any, theirs: Any) -> float:
    """Norm of the difference over the norm."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def products(network: Network, examples: Examples, peer: Any, loss: str) -> dict:
    """Relative differences of what can be compared on a network of any size."""
    rng, apart = np.random.default_rng(0), {}
    size = network.size
    few = size < 10_000
    vector = rng.choice([-1.0, 1.0], size)
    unravel = ravel_pytree(network.params)[1]
    for kind in ("hess", "ggn"):
        ours = sharpness.operator(network, examples, loss, kind)(jnp.asarray(vector))
        theirs = peer.product(kind, vector)
        apart[f"{kind} v, curvlinops"] = relative(ours, theirs)
        batch = examples.batch(0)
        forms = sharpness.quadratic_forms(
            network,
            sharpness.get_loss(loss),
            batch.images,
            batch.labels,
            unravel(jnp.asarray(vector)),
        )
        ours = float(forms[kind].mean())
        apart[f"v'{kind} v by jvp of jvp, curvlinops"] = relative(
            ours, float(vector @ theirs)
        )
        found = sharpness.eigenpairs(
            sharpness.operator(network, examples, loss, kind),
            rtol=1e-12 if few else 1e-6,
            steps=150,
            key=jax.random.key(0),
        )
        value = float(found.values[0])
        largest = peer.largest(kind, 0 if few else 1e-6)
        apart[f"lambda_max of {kind}, curvlinops"] = relative(value, largest)
        if kind == "hess":
            largest = peer.pyhessian_largest(400 if few else 60)
            apart["lambda_max of hess, PyHessian"] = relative(value, largest)
    hess = sharpness.operator(network, examples, loss)
    ours = [float(v @ np.asarray(hess(jnp.asarray(v)))) for v in peer.signs(5, seed=1)]
    theirs = peer.pyhessian_traces(5, seed=1)
    apart["v'hess v of 5 probes, PyHessian"] = relative(ours, theirs)
    return apart


def dense(network: Network, examples: Examples, peer: Any, loss: str) -> dict:
    """Relative differences of whole traces, which the peer takes from unit vectors."""
    key = jax.random.key(0)
    found = sharpness.hessian_trace(network, examples, loss, key=key)
    return {
        "tr H, curvlinops": relative(found.hess.value, peer.trace("hess")),
        "tr GGN, curvlinops": relative(found.ggn.value, peer.trace("ggn")),
    }


def main(argv: list[str]):
    """Compare on both networks."""
    options = parser(__doc__)
    options.add_argument("run", help="of a vgg11 of width 0.25")
    options.add_argument("dataset")
    options.add_argument("--data-name", default="CIFAR-10 (JPEG copy)")
    options.add_argument("--images", type=int, default=16)
    args = options.parse_args(argv)
    trained, splits, _ = load(args.run, args.dataset)
    chosen = first(splits["test"], args.images)
    images = np.asarray(chosen.with_batch_size(args.images).batch(0).images, np.float64)
    labels = chosen.chosen_labels
    more = first(splits["train"], 1024).with_batch_size(1024).batch(0)
    batch = [(torch.from_numpy(images), torch.from_numpy(labels).long())]
    jax.config.update("jax_enable_x64", True)  # a run can only be loaded as saved

    params, state = as_float64(trained.params), as_float64(trained.state)
    here = Network(eqx.combine(params, trained.static), state)
    there = peers.fill(
        peers.vgg11().double(),
        [np.asarray(x) for x in jax.tree.leaves(params)],
        [np.asarray(x) for x in jax.tree.leaves(state)],
    )
    torch.manual_seed(0)
    small = peers.train(
        peers.tiny_resnet().double(),
        torch.from_numpy(np.asarray(more.images, np.float64)),
        torch.from_numpy(np.array(more.labels)).long(),
        200,
    )
    weights, statistics = peers.export(small)
    model, empty = eqx.nn.make_with_state(models.ResNet)(
        10,
        block="basic",
        shortcut="padding",
        depths=(1, 1),
        channels=(2, 4),
        key=jax.random.key(0),
    )
    tiny = Network(as_float64(model, weights), as_float64(empty, statistics))
    examples = Examples(images, labels, batch_size=args.images)
    for name, network, theirs in (
        (f"ResNet of {tiny.size} parameters", tiny, small),
        ("trained vgg11", here, there),
    ):
        for loss in ("ce", "mse"):
            peer = peers.Peer(theirs, batch, loss)
            apart = products(network, examples, peer, loss)
            if network is tiny:
                apart |= dense(network, examples, peer, loss)
            rows: list[Row] = [
                row(f"{name}, {loss}: {what}", "relative difference", value)
                for what, value in apart.items()
            ]
            about = {"data": args.data_name, "images": args.images}
            store("sharpness_agreement", rows, **about)

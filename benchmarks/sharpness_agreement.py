"""The same figures here, in curvlinops and in PyHessian, float64, copied weights.

Dense traces on a small ResNet; matrix products, eigenvalues and single probes on a run.

    python -m benchmarks.sharpness_agreement RUN DATASET
"""

import argparse
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax.flatten_util import ravel_pytree

from eqcifar import models, sharpness
from eqcifar.sharpness import Examples, Network

from .peers import torch_sharpness as peers
from .records import store
from .sharpness_measures import first, load


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


def both(ours: float, theirs: float) -> dict[str, float]:
    """Two numbers and their relative difference."""
    return {"eqcifar": ours, "peer": theirs, "relative": relative(ours, theirs)}


def products(network: Network, examples: Examples, peer: Any, loss: str) -> dict:
    """What can be compared on a network of any size."""
    rng, rows = np.random.default_rng(0), {}
    size = network.size
    vector = rng.choice([-1.0, 1.0], size)
    unravel = ravel_pytree(network.params)[1]
    for kind in ("hess", "ggn"):
        ours = sharpness.operator(network, examples, loss, kind)(jnp.asarray(vector))
        theirs = peer.product(kind, vector)
        rows[f"{kind} v, curvlinops, norm of difference"] = relative(ours, theirs)
        batch = examples.batch(0)
        forms = sharpness.quadratic_forms(
            network,
            sharpness.get_loss(loss),
            batch.images,
            batch.labels,
            unravel(jnp.asarray(vector)),
        )
        rows[f"v'{kind} v by jvp of jvp, curvlinops"] = both(
            float(forms[kind].mean()), float(vector @ theirs)
        )
        found = sharpness.eigenpairs(
            sharpness.operator(network, examples, loss, kind),
            rtol=1e-12 if size < 10_000 else 1e-6,
            steps=150,
            key=jax.random.key(0),
        )
        value = float(found.values[0])
        rows[f"lambda_max of {kind}, curvlinops"] = both(
            value, peer.largest(kind, 0 if size < 10_000 else 1e-6)
        )
        if kind == "hess":
            rows["lambda_max of hess, PyHessian (power iteration)"] = both(
                value, peer.pyhessian_largest(400 if size < 10_000 else 60)
            )
    hess = sharpness.operator(network, examples, loss)
    ours = [float(v @ np.asarray(hess(jnp.asarray(v)))) for v in peer.signs(5, seed=1)]
    theirs = peer.pyhessian_traces(5, seed=1)
    rows["Hutchinson, 5 probes, same signs, PyHessian, norm of difference"] = relative(
        ours, theirs
    )
    return rows


def dense(network: Network, examples: Examples, peer: Any, loss: str) -> dict:
    """Whole traces."""
    key = jax.random.key(0)
    found = sharpness.hessian_trace(network, examples, loss, key=key)
    assert found.method == "exact"
    rows = {
        "tr H, curvlinops": both(found.hess.value, peer.trace("hess")),
        "tr GGN, curvlinops": both(found.ggn.value, peer.trace("ggn")),
    }
    values = np.asarray(peer.pyhessian_traces(400, seed=2))
    rows["tr H, PyHessian, 400 probes"] = both(found.hess.value, values.mean()) | {
        "standard_errors_apart": float(
            (values.mean() - found.hess.value) / (values.std(ddof=1) / 20)
        )
    }
    return rows


def run() -> dict[str, Any]:
    """Compare on both networks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("dataset")
    parser.add_argument("--data-name", default="CIFAR-10 (JPEG copy)")
    parser.add_argument("--images", type=int, default=16)
    args = parser.parse_args()
    trained, splits, _ = load(args.run, args.dataset)
    chosen = first(splits["test"], args.images)
    images = np.asarray(chosen.with_batch_size(args.images).batch(0).images, np.float64)
    labels = chosen.chosen_labels
    more = first(splits["train"], 1024).with_batch_size(1024).batch(0)
    batch = [(torch.from_numpy(images), torch.from_numpy(labels).long())]
    jax.config.update("jax_enable_x64", True)  # a run can only be loaded as saved
    result: dict[str, Any] = {"data": args.data_name, "images": args.images}

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
    for loss in ("ce", "mse"):
        rows = {"parameters": tiny.size}
        peer = peers.Peer(small, batch, loss)
        rows |= products(tiny, examples, peer, loss)
        rows |= dense(tiny, examples, peer, loss)
        result[f"small ResNet, {loss}"] = rows
        store("sharpness_agreement", result)
    for loss in ("ce", "mse"):
        rows = {"parameters": here.size}
        peer = peers.Peer(there, batch, loss)
        rows |= products(here, examples, peer, loss)
        result[f"vgg11 of the run, {loss}"] = rows
        store("sharpness_agreement", result)
    return result


def main() -> None:
    """Compare, then say how far apart the furthest are."""
    result = run()
    for network, rows in result.items():
        if isinstance(rows, dict):
            for name, found in rows.items():
                print(f"{network:24} {name:60} {found}")


if __name__ == "__main__":
    main()

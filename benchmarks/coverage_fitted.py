"""Coverage of the intervals of numbers fitted to the images they are measured on.

Eigenvalues, worst and mean rises of the loss and the NTK's spectrum, from n of 4,000
images against their value over all of them. Every per-example Hessian is formed, so
that a repeat costs nothing but draws; the intervals are those of the library's own
functions. Each part is stored as soon as it is known.

    python -m benchmarks.coverage_fitted [--repeats 200] [--only "resnet: rises"]
"""

import argparse
import json
import time
import zlib
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from eqcifar import sharpness
from eqcifar.sharpness._draw import CUTS, estimate_fitted
from eqcifar.sharpness._gram import ntk_estimates
from eqcifar.sharpness._radius import CLIMBS

from .coverage import CLASSES, Smooth, images_of_classes, small_resnet, summarise, train
from .records import RESULTS, store

SPLIT, COUNTS, TOP = 4000, (50, 200, 1000, 2000), 3
RADIUS, DIRECTIONS, PROBES = 0.05, 200, 5


def derivatives(network, images, labels):
    """Of each example: Hessian and GGN, gradient, Jacobian of the logits."""
    flat, unravel = ravel_pytree(network.params)

    @jax.jit
    def one(theta, image, label):
        logits = lambda t: network(unravel(t), image[None])[0]  # noqa: E731
        loss = lambda t: sharpness.get_loss("ce")(logits(t), label)  # noqa: E731
        jacobian, p = jax.jacrev(logits)(theta), jax.nn.softmax(logits(theta))
        ggn = jacobian.T @ (jnp.diag(p) - jnp.outer(p, p)) @ jacobian
        found = jax.hessian(loss)(theta), ggn, jax.grad(loss)(theta), jacobian
        return [x.astype(jnp.float32) for x in found]

    n, size = len(images), flat.size
    shapes = (n, size, size), (n, size, size), (n, size), (n, CLASSES, size)
    tables = [np.empty(shape, np.float32) for shape in shapes]
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        for table, value in zip(tables, one(flat, image, label), strict=True):
            table[i] = value
    return tables


def draws_of(count, rng, cuts=CUTS):
    """A sample, and its halves as weights of all the images: the whole, then cuts."""
    ids = rng.choice(SPLIT, count, replace=False)
    weights = np.zeros((1 + 2 * cuts, SPLIT), np.float32)
    weights[0, ids] = 1 / count
    for cut in range(cuts):
        order = rng.permutation(ids)
        for side, half in enumerate((order[: count // 2], order[count // 2 :])):
            weights[1 + 2 * cut + side, half] = 1 / len(half)
    return ids, weights


def fitted(found, terms, **options):
    """An estimate from the whole's number and the halves', in the order of weights."""
    halves = np.asarray(found[1:]).reshape(-1, 2)
    return estimate_fitted(float(found[0]), terms, halves, population=SPLIT, **options)


def on_eigenvalues(matrices, repeats, rng):
    """The largest eigenvalues of the Hessian and of the GGN."""
    results = {}
    for kind, each in matrices.items():
        size = each.shape[-1]
        truth = np.linalg.eigvalsh(each.mean(0, dtype=np.float64))[::-1]
        for count in COUNTS:
            draws, plain = [[] for _ in range(TOP)], [[] for _ in range(TOP)]
            for _ in range(repeats):
                ids, weights = draws_of(count, rng)
                means = (weights @ each.reshape(SPLIT, -1)).reshape(-1, size, size)
                vectors = np.linalg.eigh(means[0])[1][:, ::-1][:, :TOP]
                values = np.linalg.eigvalsh(means.astype(np.float64))[:, ::-1]
                pushed = each[ids].reshape(-1, size) @ vectors
                forms = (pushed.reshape(count, size, TOP) * vectors).sum(1)
                for k in range(TOP):
                    draws[k].append(fitted(values[:, k], forms[:, k]))
                    plain[k].append(draws[k][-1].shift(draws[k][-1].bias))
            for k in range(TOP):
                label = f"{kind} eigenvalue {k + 1}, {count} of {SPLIT}"
                results[label] = summarise(draws[k], truth[k]) | biases(
                    draws[k], plain[k], truth[k]
                )
    return results


def biases(draws, plain, truth):
    return {
        "relative_bias": float(np.mean([e.value for e in draws]) / truth - 1),
        "relative_bias_before": float(np.mean([e.value for e in plain]) / truth - 1),
    }


def on_rises(network, gradients, images, labels, repeats, rng):
    """Rises of the loss: worst on a sphere, mean over it, along a fixed line."""
    flat, unravel = ravel_pytree(network.params)
    results, mean = {}, partial(sharpness.estimate_mean, population=SPLIT)

    @jax.jit
    def losses(theta):
        return jax.vmap(sharpness.get_loss("ce"))(
            network(unravel(theta), images), labels
        )

    start = np.asarray(losses(flat))

    def rise(step):
        return np.asarray(losses(flat + jnp.asarray(step, flat.dtype))) - start

    def worst(weights):
        gradient = weights @ gradients
        return rise(RADIUS * gradient / np.linalg.norm(gradient))

    whole = worst(np.full(SPLIT, 1 / SPLIT, np.float32)).mean()
    around = rng.normal(size=(DIRECTIONS, flat.size))
    around *= RADIUS / np.linalg.norm(around, axis=1, keepdims=True)
    table = np.stack([(rise(d) + rise(-d)) / 2 for d in around], axis=1)
    line = ravel_pytree(sharpness.filter_normalised(network, jax.random.key(0)))[0]
    along = (rise(0.5 * np.asarray(line)) + rise(-0.5 * np.asarray(line))) / 2
    for count in COUNTS:
        sams, plain, averages, lines = [], [], [], []
        for _ in range(repeats):
            ids, weights = draws_of(count, rng, CLIMBS)
            rises = [worst(row) for row in weights]
            found = [w @ r for w, r in zip(weights, rises, strict=True)]
            sams.append(fitted(found, rises[0][ids], maximal=False))
            plain.append(sams[-1].shift(sams[-1].bias))
            few = rng.choice(DIRECTIONS, PROBES, replace=False)
            shared = np.zeros(count, int)
            averages.append(mean(table[np.ix_(ids, few)], groups=shared))
            lines.append(mean(along[ids, None], exact=True))
        of = f"{count} of {SPLIT}"
        results[f"worst rise, {of}"] = summarise(sams, whole) | biases(
            sams, plain, whole
        )
        results[f"mean rise of {PROBES} directions, {of}"] = summarise(
            averages, table.mean()
        )
        results[f"rise along a line, {of}"] = summarise(lines, along.mean())
    return results


def on_gram(jacobians, repeats, rng):
    """The largest eigenvalue and the effective rank of the NTK, from 64 images."""
    rows = jacobians.reshape(-1, jacobians.shape[-1]).astype(np.float64)
    values = np.linalg.eigvalsh(rows.T @ rows / SPLIT)
    truth = {
        "lmax_ntk": values[-1],
        "rank_ntk": values.sum() ** 2 / (values**2).sum(),
    }
    draws: dict[str, list] = {name: [] for name in truth}
    for _ in range(repeats):
        ids = rng.choice(SPLIT, 64, replace=False)
        few = jacobians[ids].reshape(-1, jacobians.shape[-1]).astype(np.float64)
        found = ntk_estimates(few @ few.T / 64, 64, population=SPLIT)
        for name, estimate in found.items():
            draws[name].append(estimate)
    return {
        f"{name}, 64 of {SPLIT}": summarise(every, truth[name])
        | biases(every, [e.shift(e.bias) for e in every], truth[name])
        for name, every in draws.items()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--only", default="", help="how the names of parts begin")
    options = parser.parse_args()
    images, labels = images_of_classes(SPLIT, np.random.default_rng(0))
    cases = {
        "resnet": (small_resnet, 300),
        "resnet, early": (small_resnet, 30),
        "gelu": (Smooth, 300),
    }
    path = RESULTS / "coverage_fitted.json"
    parts = json.loads(path.read_text()).get("parts", {}) if path.exists() else {}
    for name, (build, steps) in cases.items():
        if not options.only.startswith(f"{name}:") and options.only:
            continue
        model, state = eqx.nn.make_with_state(build)(jax.random.key(0))
        network = train(model, state, images[:1000], labels[:1000], steps)
        hessians, ggns, gradients, jacobians = derivatives(network, images, labels)
        finds = {
            "rises": partial(on_rises, network, gradients, images, labels),
            "gram": partial(on_gram, jacobians),
            "eigenvalues": partial(on_eigenvalues, {"H": hessians, "GGN": ggns}),
        }
        for kind, find in finds.items():
            part = f"{name}: {kind}"
            if not part.startswith(options.only):
                continue
            start, rng = time.time(), np.random.default_rng(zlib.crc32(part.encode()))
            found = find(options.repeats, rng)
            seconds = round(time.time() - start)
            results = {"repeats": options.repeats, "seconds": seconds, "results": found}
            parts[part] = results
            store("coverage_fitted", {"examples": SPLIT, "parts": parts})
            for label, row in found.items():
                print(f"{part}: {label}", {k: round(v, 3) for k, v in row.items()})


if __name__ == "__main__":
    main()

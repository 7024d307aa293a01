"""Coverage of the intervals of numbers fitted to the images they are measured on.

Eigenvalues, worst and mean rises of the loss and the NTK's spectrum, from n of 4,000
images against their value over all of them. Every per-example Hessian is formed, so
that a repeat costs nothing but draws; the intervals are those of the library's own
functions. Each part is stored as soon as it is known.

    python -m benchmarks coverage_fitted --only "resnet: rises" --repeats 100
"""

import zlib
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from eqcifar import sharpness
from eqcifar.losses import get_loss
from eqcifar.sharpness._draw import GROUPS, cut, estimate_fitted
from eqcifar.sharpness._gram import ntk_estimates
from eqcifar.sharpness._lanczos import Eigen
from eqcifar.sharpness._leading import eigenpairs_of_halves

from .coverage import CLASSES, Smooth, images_of_classes, small_resnet, summarise, train
from .shared import Row, parser, row, store

SPLIT, COUNTS, TOP, KNOWN = 4000, (50, 200, 1000, 2000), 3, 20
RADIUS, DIRECTIONS, PROBES, TOGETHER = 0.05, 200, 5, 8


def derivatives(network, images, labels):
    """Of each example: Hessian and GGN, gradient, Jacobian of the logits."""
    flat, unravel = ravel_pytree(network.params)

    @jax.jit
    def one(theta, image, label):
        logits = lambda t: network(unravel(t), image[None])[0]  # noqa: E731
        loss = lambda t: get_loss("ce")(logits(t), label)  # noqa: E731
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


def draws_of(count, rng):
    """A sample, its cuts, and as weights of all images the whole and its groups."""
    ids, cuts = rng.choice(SPLIT, count, replace=False), cut(count)
    weights = np.zeros((1 + GROUPS, SPLIT), np.float32)
    weights[0, ids] = 1 / count
    weights[1 + cuts.group, ids] = 1 / cuts.sizes[cuts.group]
    return ids, cuts, weights


fitted = partial(estimate_fitted, population=SPLIT)


def of_halves(values, vectors, groups, cuts):
    """The eigenvalues of halves as the library finds them, near those of the whole."""
    rows = jnp.asarray(vectors.T)
    found = Eigen(
        *(values[:TOP], np.zeros(TOP), rows[:TOP]),
        *(values[TOP:KNOWN], rows[TOP:KNOWN], True, 0, 0.0),
    )
    held = [jnp.asarray(group, rows.dtype) for group in groups]
    parts = [sharpness.Operator(lambda v, m=m: m @ v, len(m), m.dtype) for m in held]
    return eigenpairs_of_halves(parts, cuts.shares, found, TOP, work=(0, 1)).values


def on_eigenvalues(
    name: str, matrices: dict[str, np.ndarray], repeats: int, rng: np.random.Generator
) -> list[Row]:
    """The largest eigenvalues of the Hessian and of the GGN."""
    rows = []
    for kind, each in matrices.items():
        size = each.shape[-1]
        truth = np.linalg.eigvalsh(each.mean(0, dtype=np.float64))[::-1]
        for count in COUNTS:
            draws = [[] for _ in range(TOP)]
            for start in range(0, repeats, TOGETHER):
                several = range(start, min(start + TOGETHER, repeats))
                samples = [draws_of(count, rng) for _ in several]
                # One large product in place of many that each read all of `each`.
                weights = np.concatenate([weights for *_, weights in samples])
                means = (weights @ each.reshape(SPLIT, -1)).reshape(
                    len(samples), -1, size, size
                )
                for (ids, cuts, _), of_one in zip(samples, means, strict=True):
                    values, vectors = (
                        np.flip(x, -1) for x in np.linalg.eigh(of_one[0].astype(float))
                    )
                    halves = of_halves(values, vectors, of_one[1:], cuts)
                    first = vectors[:, :TOP].astype(np.float32)
                    pushed = each[ids].reshape(-1, size) @ first
                    forms = (pushed.reshape(count, size, TOP) * first).sum(1)
                    for k in range(TOP):
                        estimate = fitted(values[k], forms[:, k], halves[..., k])
                        draws[k].append(estimate)
            for k in range(TOP):
                what = (
                    f"{name}: eigenvalue {k + 1} of {kind}, {count} of {SPLIT} images"
                )
                rows += with_bias(what, draws[k], truth[k])
    return rows


def with_bias(what: str, draws: list[sharpness.Estimate], truth: float) -> list[Row]:
    """Coverage and error, and the mean relative bias, corrected and before that."""
    values, taken = ([getattr(e, k) for e in draws] for k in ("value", "bias"))
    bias, before = np.mean(values) / truth - 1, np.mean(np.add(values, taken)) / truth
    return [
        *summarise(what, draws, truth),
        row(what, "relative bias", float(bias), n=len(draws)),
        row(what, "relative bias uncorrected", float(before - 1), n=len(draws)),
    ]


def on_rises(
    name: str,
    network: sharpness.Network,
    gradients: np.ndarray,
    images: np.ndarray,
    labels: np.ndarray,
    repeats: int,
    rng: np.random.Generator,
) -> list[Row]:
    """Rises of the loss: worst on a sphere, mean over it, along a fixed line."""
    flat, unravel = ravel_pytree(network.params)
    mean = partial(sharpness.estimate_mean, population=SPLIT)

    @jax.jit
    def losses(theta, images, labels):
        ce = sharpness.get_loss("ce")
        return jax.vmap(ce)(network(unravel(theta), images), labels)

    everyone = np.arange(SPLIT)
    start = np.asarray(losses(flat, images, labels))

    def rise(step, ids=everyone):
        there = flat + jnp.asarray(step, flat.dtype)
        return np.asarray(losses(there, images[ids], labels[ids])) - start[ids]

    def worst(ids):
        gradient = gradients[ids].mean(0, dtype=np.float64)
        return rise(RADIUS * gradient / np.linalg.norm(gradient), ids)

    whole = worst(everyone).mean()
    around = rng.normal(size=(DIRECTIONS, flat.size))
    around *= RADIUS / np.linalg.norm(around, axis=1, keepdims=True)
    table = np.stack([(rise(d) + rise(-d)) / 2 for d in around], axis=1)
    line = ravel_pytree(sharpness.filter_normalised(network, jax.random.key(0)))[0]
    along = (rise(0.5 * np.asarray(line)) + rise(-0.5 * np.asarray(line))) / 2
    rows = []
    for count in COUNTS:
        sams, averages, lines = [], [], []
        for _ in range(repeats):
            ids, cuts, _ = draws_of(count, rng)
            rises = worst(ids)
            halves = [
                [worst(ids[cuts.members(half)]).mean() for half in both]
                for both in cuts.sides
            ]
            found = rises.mean(), rises, np.asarray(halves)
            sams.append(fitted(*found, maximal=False))
            few = rng.choice(DIRECTIONS, PROBES, replace=False)
            shared = np.zeros(count, int)
            averages.append(mean(table[np.ix_(ids, few)], groups=shared))
            lines.append(mean(along[ids, None], exact=True))
        of = f"{count} of {SPLIT} images"
        directions = f"{name}: mean rise of {PROBES} directions, {of}"
        rows += with_bias(f"{name}: worst rise (SAM), {of}", sams, whole)
        rows += summarise(directions, averages, table.mean())
        rows += summarise(f"{name}: rise along a line, {of}", lines, along.mean())
    return rows


def on_gram(
    name: str, jacobians: np.ndarray, repeats: int, rng: np.random.Generator
) -> list[Row]:
    """The largest eigenvalue and the effective rank of the NTK, from 64 images."""
    rows = jacobians.reshape(-1, jacobians.shape[-1]).astype(np.float64)
    values = np.linalg.eigvalsh(rows.T @ rows / SPLIT)
    truth = {
        "lmax_ntk": values[-1],
        "rank_ntk": values.sum() ** 2 / (values**2).sum(),
    }
    draws: dict[str, list] = {of: [] for of in truth}
    for _ in range(repeats):
        ids = rng.choice(SPLIT, 64, replace=False)
        few = jacobians[ids].reshape(-1, jacobians.shape[-1]).astype(np.float64)
        found = ntk_estimates(few @ few.T / 64, 64, population=SPLIT)
        for of, estimate in found.items():
            draws[of].append(estimate)
    return [
        each
        for of, every in draws.items()
        for each in with_bias(f"{name}: {of}, 64 of {SPLIT} images", every, truth[of])
    ]


def main(argv: list[str]):
    """Measure the parts that are asked for."""
    options = parser(__doc__)
    options.add_argument("--repeats", type=int, default=100)
    options.add_argument("--only", default="", help="how the names of parts begin")
    args = options.parse_args(argv)
    images, labels = images_of_classes(SPLIT, np.random.default_rng(0))
    cases = {
        "resnet": (small_resnet, 300),
        "resnet, early": (small_resnet, 30),
        "gelu": (Smooth, 300),
    }
    for name, (build, steps) in cases.items():
        if args.only and not args.only.startswith(f"{name}:"):
            continue
        model, state = eqx.nn.make_with_state(build)(jax.random.key(0))
        network = train(model, state, images[:1000], labels[:1000], steps)
        hessians, ggns, gradients, jacobians = derivatives(network, images, labels)
        finds = {
            "rises": partial(on_rises, name, network, gradients, images, labels),
            "gram": partial(on_gram, name, jacobians),
            "eigenvalues": partial(on_eigenvalues, name, {"H": hessians, "GGN": ggns}),
        }
        for kind, find in finds.items():
            part = f"{name}: {kind}"
            if part.startswith(args.only):
                rng = np.random.default_rng(zlib.crc32(part.encode()))
                store("coverage_fitted", find(args.repeats, rng))

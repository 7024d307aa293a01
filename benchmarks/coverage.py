"""Coverage of the 95 % intervals of traces and cosines, on small trained networks.

Every per-example Hessian is formed in float64, so that the truth is known and a repeat
costs nothing but draws; the intervals are those of the library's own functions. Each
part is stored as soon as it is known.

    python -m benchmarks coverage --only "resnet: examples" --repeats 1000
"""

import zlib
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from scipy.special import stdtrit

from eqcifar import models, sharpness
from eqcifar.sharpness._compare import _cosine, _jackknife, _quotient

from .shared import Row, parser, row, share, store

jax.config.update("jax_enable_x64", True)
CLASSES, SPLIT = 4, 1000


class Smooth(eqx.Module):
    """Two convolutions with GELU, so that the Hessian is not the GGN in trace."""

    first: eqx.nn.Conv2d
    second: eqx.nn.Conv2d
    last: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.first = eqx.nn.Conv2d(3, 3, 3, stride=2, key=keys[0])
        self.second = eqx.nn.Conv2d(3, 4, 3, key=keys[1])
        self.last = eqx.nn.Linear(4, CLASSES, key=keys[2])

    def __call__(self, x, state, *, key=None):
        """Return the logits of one image."""
        x = jax.nn.gelu(self.first(x))
        return self.last(jnp.sum(jax.nn.gelu(self.second(x)), (1, 2))), state


def small_resnet(key):
    return models.ResNet(
        CLASSES,
        block="basic",
        shortcut="projection",
        depths=(1, 1),
        channels=(2, 2),
        key=key,
    )


def images_of_classes(count, rng):
    patterns = np.random.default_rng(0).normal(size=(CLASSES, 3, 8, 8))
    labels = rng.integers(0, CLASSES, count).astype(np.int32)
    return patterns[labels] + 1.5 * rng.normal(size=(count, 3, 8, 8)), labels


def train(model, state, images, labels, steps=300):
    optimiser = optax.adam(1e-2)
    moments = optimiser.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(model, state, moments, x, y):
        @eqx.filter_grad(has_aux=True)
        def loss(model, state):
            run = jax.vmap(model, (0, None), (0, None), axis_name="batch")
            logits, state = run(x, state)
            return jax.vmap(sharpness.get_loss("ce"))(logits, y).mean(), state

        gradient, state = loss(model, state)
        updates, moments = optimiser.update(gradient, moments)
        return eqx.apply_updates(model, updates), state, moments

    rng = np.random.default_rng(1)
    for _ in range(steps):
        at = rng.integers(0, len(labels), 100)
        model, state, moments = step(model, state, moments, images[at], labels[at])
    return sharpness.Network(model, state)


def matrices(network, images, labels):
    """Hessian, GGN and the Gram matrices of the root (NTK, CE) of each example."""
    flat, unravel = ravel_pytree(network.params)

    @jax.jit
    def one(theta, image, label):
        logits = lambda t: network(unravel(t), image[None])[0]  # noqa: E731
        hessian = jax.hessian(lambda t: sharpness.get_loss("ce")(logits(t), label))(
            theta
        )
        jacobian = jax.jacrev(logits)(theta)
        p = jax.nn.softmax(logits(theta))
        root = jnp.diag(jnp.sqrt(p)) - jnp.outer(p, jnp.sqrt(p))
        pulled = root.T @ jacobian
        return hessian, pulled.T @ pulled, pulled @ pulled.T, jacobian @ jacobian.T

    rows = [one(flat, x, y) for x, y in zip(images, labels, strict=True)]
    return [np.stack([np.asarray(r[k]) for r in rows]) for k in range(4)]


def covered(estimate, truth):
    low, high = estimate.interval()
    return low <= truth <= high


def summarise(what: str, draws: list[sharpness.Estimate], truth: float) -> list[Row]:
    """How often the interval held the truth, and how far off the values are."""
    hits = sum(covered(e, truth) for e in draws)
    values = np.asarray([e.value for e in draws])
    error = float(np.sqrt(((values - truth) ** 2).mean()) / abs(truth))
    return [
        share(what, "coverage", hits, len(draws)),
        row(what, "relative error (RMS)", error, n=len(draws)),
    ]


def on_examples(name, hessians, ggns, grams, ntks, flips, repeats, rng):
    """Intervals of means over examples: exact, near-exact and general path."""
    rows = []
    n, size = len(hessians), hessians.shape[-1]
    mean = sharpness.estimate_mean

    def signs(*shape):
        return rng.choice([-1.0, 1.0], size=shape)

    for label, gram in (("ggn_ce", grams), ("ntk", ntks)):
        traces = np.trace(gram, axis1=1, axis2=2)
        truth = traces.mean()
        classes = gram.shape[-1]
        for count in (200, 500):
            exact, near = [], []
            for _ in range(repeats):
                ids = rng.choice(n, count, replace=False)
                exact.append(mean(traces[ids, None], exact=True, population=n))
                r = signs(2, count, classes)
                table = np.einsum("mic,icd,mid->im", r, gram[ids], r)
                near.append(mean(table, population=n))
            rows += summarise(f"{name}: {label} exact, {count} of {n}", exact, truth)
            rows += summarise(
                f"{name}: {label} two output probes, {count} of {n}", near, truth
            )
        whole, one = [], []
        for _ in range(repeats):
            r = signs(2, n, classes)
            table = np.einsum("mic,icd,mid->im", r, gram, r, optimize=True)
            whole.append(mean(table))
            one.append(mean(table[:, :1]))
        rows += summarise(f"{name}: {label} two output probes, all", whole, truth)
        rows += summarise(f"{name}: {label} one output probe, all (safe)", one, truth)
    truth = np.trace(hessians.mean(0))
    exact_ggn = np.trace(ggns, axis1=1, axis2=2)
    for batch, probes in ((25, 2), (25, 4), (25, 1), (100, 10)):
        # With every example seen only the sums over batches count.
        blocks = hessians.reshape(-1, batch, size, size).mean(1)
        curves = ggns.reshape(-1, batch, size, size).mean(1)
        rest, base = blocks - curves, exact_ggn.reshape(-1, batch).mean(1)[:, None]
        plain, controlled = [], []
        for _ in range(repeats):
            v = signs(len(blocks), probes, size)
            plain.append(mean(((v @ blocks) * v).sum(2)))
            controlled.append(mean(base + ((v @ rest) * v).sum(2)))
        case = f"{probes} probes a batch of {batch}, all"
        rows += summarise(f"{name}: hess, {case}", plain, truth)
        rows += summarise(f"{name}: hess by control variate, {case}", controlled, truth)
    return rows + on_own_directions(name, hessians, ggns, flips, repeats, rng)


def on_own_directions(name, hessians, ggns, flips, repeats, rng):
    """The general path as it is by default: a direction a batch, signs an example."""
    rows, n, batch, probes = [], len(hessians), 25, 2
    truth, mean = np.trace(hessians.mean(0)), sharpness.estimate_mean
    whole = np.tile(np.arange(n), (repeats, 1))
    without = np.stack([rng.permutation(n)[:250] for _ in range(repeats)])
    again = rng.integers(0, n, (repeats, 250))
    case = f"{probes} probes a batch of {batch} with signs an example"
    draws_of: list[tuple[np.ndarray, sharpness.Target, str]] = [
        (whole, "split", "all"),
        (without, "split", f"250 of {n} (split)"),
        (again, "population", f"250 of {n} (population)"),
    ]
    for order, target, count in draws_of:
        groups = np.arange(order.shape[1]) // batch
        for what, matrices, base in (
            ("hess", hessians, np.zeros(n)),
            ("hess by control variate", hessians - ggns, np.einsum("ijj->i", ggns)),
        ):
            tables = own_forms(matrices, flips, order, groups, probes, rng)
            draws = [
                mean(
                    base[ids, None] + table,
                    groups=groups,
                    population=n,
                    target=target,
                )
                for ids, table in zip(order, tables, strict=True)
            ]
            rows += summarise(f"{name}: {what}, {case}, {count}", draws, truth)
    return rows


def own_forms(matrices, flips, order, groups, probes, rng):
    """v_i'A_i v_i of every repeat, an example of all repeats at a time."""

    def signs(*shape):
        return rng.integers(0, 2, shape, np.int8).astype(np.float32) * 2 - 1

    outputs, inputs = flips
    repeats, size = len(order), matrices.shape[-1]
    common = signs(repeats, groups[-1] + 1, probes, size)
    table = np.zeros((*order.shape, probes))
    for i, matrix in enumerate(matrices.astype(np.float32)):
        at = np.nonzero(order == i)
        own = signs(len(at[0]), probes, max(outputs.max(), inputs.max()) + 1)
        own[..., 0] = 1
        v = common[at[0], groups[at[1]]] * own[..., outputs] * own[..., inputs]
        table[at] = ((v @ matrix) * v).sum(-1)
    return table


def flip_places(network):
    """For each parameter, which two of an example's signs it has; the first is 1."""
    outputs, inputs, next_sign = [], [], 1
    for leaf in jax.tree.leaves(network.params):
        places = np.arange(leaf.size).reshape(leaf.shape)
        if leaf.size == max(leaf.shape):
            outputs.append(next_sign + places.ravel())
            inputs.append(np.zeros(leaf.size, int))
            next_sign += leaf.size
        else:
            row, column = np.indices(leaf.shape)[:2]
            outputs.append(next_sign + row.ravel())
            inputs.append(next_sign + leaf.shape[0] + column.ravel())
            next_sign += sum(leaf.shape[:2])
    return np.concatenate(outputs), np.concatenate(inputs)


def on_one_matrix(name, hessian, ggn, products, repeats, rng):
    """Intervals of trace estimators of one operator, by number of products."""
    rows, key = [], jax.random.key(int(rng.integers(2**31)))
    cases = [
        (f, m, hessian)
        for f in (sharpness.hutchinson, sharpness.hutch_plus_plus, sharpness.xtrace)
        for m in products
    ] + [(sharpness.xnystrace, m, ggn) for m in products]
    for function, probes, matrix in cases:
        held, truth = jnp.asarray(matrix), float(np.trace(matrix))
        apply = jax.jit(lambda v, held: held @ v)
        draws = []
        for i in range(repeats):
            operator = sharpness.Operator(
                lambda v, held=held, apply=apply: apply(v, held), len(matrix)
            )
            draws.append(
                function(operator, matvecs=probes, key=jax.random.fold_in(key, i))
            )
        label = f"{name}: {function.__name__}, {probes} products"
        rows += summarise(label, draws, truth)
    return rows


def on_cosines(name, hessians, ggns, repeats, rng):
    """Jackknife intervals of `compare`: cosines and ratios under common probes."""
    rows, n = [], len(hessians)
    quarters = np.array_split(rng.permutation(n), 4)
    pairs = {
        "two splits": [(4, 5)],
        "halves across splits": [(0, 2), (0, 3), (1, 2), (1, 3)],
        "halves of a split": [(0, 1)],
    }
    for kind, each in (("H", hessians), ("GGN", ggns), ("H - GGN", hessians - ggns)):
        halves = [each[ids].mean(0) for ids in quarters]
        wholes = [(halves[0] + halves[1]) / 2, (halves[2] + halves[3]) / 2]
        sets = np.stack([*halves, *wholes])
        inner = np.einsum("aij,bij->ab", sets, sets)
        for probes in (5, 10, 20, 50):
            draws = {pair: [] for pair in [*pairs, "ratio"]}
            for _ in range(repeats):
                v = rng.choice([-1.0, 1.0], size=(sets.shape[-1], probes))
                pushed = sets @ v
                gram = np.einsum("aim,bim->mab", pushed, pushed)
                for label, which in pairs.items():
                    draws[label].append(_jackknife(partial(_cosine, pairs=which), gram))
                forms = np.einsum("im,aim->ma", v, pushed[4:])
                draws["ratio"].append(_jackknife(_quotient, forms))
            for label, which in pairs.items():
                what = f"{name}: cosine of {kind}, {label}, {probes} probes"
                rows += summarise(what, draws[label], _cosine(inner, which))
            if kind != "H - GGN":
                truth = np.trace(wholes[1]) / np.trace(wholes[0])
                what = f"{name}: trace ratio of {kind}, {probes} probes"
                rows += summarise(what, draws["ratio"], truth)
    return rows


def on_stopping(name, hessian, traces, repeats, rng):
    """Share of sequential stops whose value is within the relative tolerance."""
    rows = []
    truth, size = np.trace(hessian), len(hessian)
    for rtol in (0.1, 0.05, 0.02):
        stop, met, used = sharpness.Stop(rtol), 0, []
        for _ in range(repeats):
            values, count = np.zeros(0), None
            while count is None:
                v = rng.choice([-1.0, 1.0], size=(len(values) + 256, size))
                values = np.append(values, ((v @ hessian) * v).sum(1))
                count = _first_stop(stop, values)
            used.append(count)
            met += int(abs(values[:count].mean() / truth - 1) <= rtol)
        what = f"{name}: Hutchinson, stopped at {rtol:g}"
        rows.append(share(what, "within the tolerance", met, repeats))
        rows.append(row(what, "products, mean", float(np.mean(used)), n=repeats))
        met, used, truth_data = 0, [], traces.mean()
        for _ in range(repeats):
            order, count = rng.permutation(len(traces)), 50
            while count < len(traces):
                values = traces[order[:count], None]
                guess = sharpness.estimate_mean(
                    values, exact=True, population=len(traces)
                )
                if stop.narrow(guess):
                    break
                count = min(int(np.ceil(1.1 * count / 10)) * 10, len(traces))
            used.append(count)
            error = abs(traces[order[:count]].mean() / truth_data - 1)
            met += int(error <= rtol)
        what = f"{name}: exact path over images, stopped at {rtol:g}"
        rows.append(share(what, "within the tolerance", met, repeats))
        rows.append(row(what, "images, mean", float(np.mean(used)), n=repeats))
    return rows


def _first_stop(stop, values):
    """The first term at which the library's rule stops, found by running sums."""
    counts = np.arange(stop.minimum, len(values) + 1, stop.every)
    first, second, third, fourth = (
        np.cumsum(values**power)[counts - 1] / counts for power in (1, 2, 3, 4)
    )
    square = second - first**2
    cube = third - 3 * first * second + 2 * first**3
    kurtosis = fourth - 4 * first * third + 6 * first**2 * second - 3 * first**4
    freedom = np.minimum(counts - 1.0, 2 * counts / (kurtosis / square**2 - 1))
    skewness = cube / square**1.5 * np.sqrt(counts - 1.0) / (counts - 2)
    t = stdtrit(freedom, 0.5 + 0.5 * stop.level) * np.sign(skewness)
    # Hall's interval reaches further to the side of the skewness.
    root = np.cbrt(1 - skewness * (t + skewness / 6))
    reach = np.abs(3 / skewness * (root - 1)) * np.sqrt(square / (counts - 1))
    for at in np.flatnonzero(reach <= stop.rtol * np.abs(first) * (1 + 1e-6)):
        count = int(counts[at])
        if stop.now(sharpness.estimate_mean(values[None, :count]), count):
            return count
    return None


def main(argv: list[str]):
    options = parser(__doc__)
    options.add_argument("--repeats", type=int, default=1000)
    options.add_argument("--only", default="", help="how the names of parts begin")
    args = options.parse_args(argv)
    images, labels = images_of_classes(SPLIT, np.random.default_rng(0))
    builds = {
        "resnet": small_resnet,
        "gelu": Smooth,
    }
    for name, build in builds.items():
        if args.only and not args.only.startswith(name):
            continue
        model, state = eqx.nn.make_with_state(build)(jax.random.key(0))
        network = train(model, state, images, labels)
        every = matrices(network, images, labels)
        hessian, ggn = (matrix.mean(0) for matrix in every[:2])
        traces = np.trace(every[2], axis1=1, axis2=2)
        products = (12, 30, 60) if name == "resnet" else (30,)
        flips, repeats = flip_places(network), args.repeats
        finds = {
            "examples": partial(on_examples, name, *every, flips, repeats),
            "cosines": partial(on_cosines, name, *every[:2], repeats),
            "one matrix": partial(on_one_matrix, name, hessian, ggn, products, repeats),
            "stopping": partial(on_stopping, name, hessian, traces, repeats),
        }
        for kind, find in finds.items():
            part = f"{name}: {kind}"
            if part.startswith(args.only):
                rng = np.random.default_rng(zlib.crc32(part.encode()))
                store("coverage", find(rng))

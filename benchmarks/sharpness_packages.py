"""Curvature of one trained network here and in three packages, measured in one run.

Each is a process of its own, and one computes at a time. tr H, tr GGN and tr NTK to the
same standard error of the random vectors, five eigenvalues, the density; then a product
of ResNet-18 as a multiple of a gradient, in turns.

    python -m benchmarks sharpness_packages RUN DATASET --torch ENVIRONMENT/bin/python
"""

import math
import resource
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eqcifar import data, models, sharpness
from eqcifar.parallel import jit
from eqcifar.runs import load_model
from eqcifar.sharpness import Examples, Network

from .shared import Row, parser, row, spread, store
from .sides import Remote

KEY = jax.random.key(0)
PEERS = {
    "PyHessian": "PyHessian",
    "curvlinops": "Curvlinops",
    "hessian-eigenthings": "Eigenthings",
}
TRACES = {"tr H": ("hess", "ce"), "tr GGN": ("ggn", "ce"), "tr NTK": ("ggn", "mse")}


class Ours:
    """The measures of the library on a run, as `torch_packages.Package` has them."""

    def __init__(self, run: str, dataset: str, count: int):
        loaded = load_model(run)
        config, images = loaded.config, data.load(dataset)

        def prepare(x: Any) -> Any:
            return data.normalise(x, config.mean, config.std)

        split = images.train
        self.arch, self.network = config.arch, Network(loaded.model, loaded.state)
        every = Examples(split.images, split.labels, prepare)
        self.examples = every.sample(count, 0).with_batch_size(count)
        # All that there is: the draw of images is another question.
        ids = self.examples.order
        self.examples = Examples(
            split.images[ids], split.labels[ids], prepare, batch_size=count
        )

    def subject(self) -> tuple[str, list[np.ndarray], list[np.ndarray], Any, Any]:
        """Architecture, weights, statistics, images and labels."""
        trees = self.network.params, self.network.state
        weights, statistics = (
            [np.asarray(x) for x in jax.tree.leaves(t)] for t in trees
        )
        batch = self.examples.batch(0)
        images, labels = np.asarray(batch.images), np.asarray(batch.labels)
        return self.arch, weights, statistics, images, labels

    def memory(self) -> float:
        """The most that the process has held so far, in GB."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6

    def measure(self, what: str, *arguments: Any) -> tuple[Any, float, float]:
        """What a method returns, its seconds and its products; compiled before."""
        getattr(self, what)(*arguments)
        begin = time.perf_counter()
        found, products = getattr(self, what)(*arguments)
        return found, time.perf_counter() - begin, products

    def trace(
        self, kind: str, loss: str, probes: int
    ) -> tuple[tuple[float, float], float]:
        """The value and the standard error of its random vectors (0: exact)."""
        found = sharpness.output_traces(
            self.network, self.examples, loss, probes=probes, scaled=("plain",), key=KEY
        )
        estimate = found.estimate()
        if probes == 0:
            batch = self.examples.batch(0)
            return (estimate.value, 0.0), self.network.classes(batch.images)
        spread = found.table().std(axis=1, ddof=1) / probes**0.5
        error = float(np.sqrt((spread**2).sum())) / len(spread)
        return (estimate.value, error), probes

    def top(self, count: int, rtol: float = 1e-3) -> tuple[list[float], float]:
        """By Lanczos, each with the norm of its residual."""
        apply = sharpness.operator(self.network, self.examples, "ce")
        found = sharpness.eigenpairs(apply, count, rtol=rtol, key=KEY)
        return found.values.tolist(), found.matvecs

    def second_moment(self, runs: int, steps: int) -> tuple[float, float]:
        """The density's."""
        apply = sharpness.operator(self.network, self.examples, "ce")
        found = sharpness.spectral_density(apply, probes=runs, steps=steps, key=KEY)
        return found.frobenius.value / self.network.size, found.matvecs


class OurProducts:
    """A gradient and products of ResNet-18, ready to be timed."""

    def __init__(self, arch: str, count: int):
        self.network = Network(*models.create(arch, key=KEY))
        images = jax.random.normal(KEY, (count, 3, 32, 32))
        self.examples = Examples(images, np.arange(count) % 10, batch_size=count)
        self.arch, self.vector = arch, jnp.ones(self.network.size)
        self.timed: dict[str, Any] = {}

    def ready(self, form: str):
        """Compile."""
        if form == "gradient":
            batch, loss = self.examples.batch(0), sharpness.get_loss("ce")
            self.timed[form] = lambda: _gradient(self.network, loss, batch)
        else:
            kind: Any = form
            apply = sharpness.operator(self.network, self.examples, "ce", kind)
            self.timed[form] = lambda: apply(self.vector)
        self.seconds(form)

    def seconds(self, form: str) -> float:
        """Of one call of what `ready` has made."""
        begin = time.perf_counter()
        jax.block_until_ready(self.timed[form]())
        return time.perf_counter() - begin

    subject, memory = Ours.subject, Ours.memory


@jit
def _gradient(network: Network, loss: Any, batch: Any) -> Any:
    def total(params: Any) -> jax.Array:
        return jnp.mean(jax.vmap(loss)(network(params, batch.images), batch.labels))

    return jax.grad(total)(network.params)


def quantities(
    ours: Remote, peers: dict[str, Remote], goal: float, runs: int, steps: int
) -> list[Row]:
    """Everything but the single products."""
    rows = []

    def add(what: str, name: str, found: Any, apart: float):
        _, seconds, products = found
        rows.append(row(f"{what}: {name}", "products", products))
        rows.append(row(f"{what}: {name}", "time, s", seconds))
        rows.append(row(f"{what}: {name}", "relative difference", apart))

    for what, (kind, loss) in TRACES.items():
        exact = ours.call("measure", "trace", kind, loss, 0)
        (truth, _), *_ = exact
        add(what, "eqcifar, exact", exact, 0.0)
        probes = 2
        while True:
            found = ours.call("measure", "trace", kind, loss, probes)
            (value, error), *_ = found
            if error <= goal * truth:
                break
            probes *= 2
        add(what, "eqcifar", found, abs(value / truth - 1))
        pilot, spread_of_one = 12, 0.0
        _, spread_of_one = peers["hessian-eigenthings"].call("trace", kind, loss, pilot)
        needed = math.ceil(pilot * (spread_of_one / (goal * truth)) ** 2)
        for name, peer in peers.items():
            if name == "PyHessian" and what == "tr GGN":
                continue  # has no such product
            found = peer.call("measure", "trace", kind, loss, max(needed, 2))
            (value, _), *_ = found
            add(what, name, found, abs(value / truth - 1))
    best = np.asarray(ours.call("top", 5, 1e-6)[0])
    moment = None
    for name, side in {"eqcifar": ours, **peers}.items():
        found = side.call("measure", "top", 5)
        apart = np.abs(np.asarray(found[0]) / best - 1).max()
        add("five largest eigenvalues", name, found, float(apart))
        found = side.call("measure", "second_moment", runs, steps)
        moment = moment or found[0]
        add("density, second moment", name, found, abs(found[0] / moment - 1))
        rows.append(row(f"all: {name}", "peak memory, GB", side.call("memory")))
    return rows


def products(
    ours: Remote, peer: Remote, compiled: bool, what: str, rounds: int
) -> list[Row]:
    """Products in turns, as multiples of the gradient of the same package."""
    how = " compiled" if compiled else ""
    kinds = ("gradient", "hess", "ggn")
    forms = {
        "eqcifar": (ours, kinds),
        f"curvlinops{how}": (peer, [kind + how for kind in kinds]),
    }
    seconds: dict[tuple[str, str], list[float]] = {}
    for side, each in forms.values():
        for form in each:
            side.call("ready", form)
    for _ in range(rounds):
        for name, (side, each) in forms.items():
            for form in each:
                # Another's threads may still be waiting for work.
                time.sleep(0.3)
                kind = form.partition(" ")[0]
                seconds.setdefault((name, kind), []).append(side.call("seconds", form))
    rows = []
    words = {"hess": "Hessian, gradients", "ggn": "GGN, gradients"}
    for name in forms:
        base = seconds[name, "gradient"]
        rows.append(spread(f"{what}: {name}", "gradient, s", base))
        for kind, unit in words.items():
            ratios = np.divide(seconds[name, kind], base).tolist()
            rows.append(spread(f"{what}: {name}", unit, ratios))
    return rows


def main(argv: list[str]):
    """Measure and store both parts."""
    options = parser(__doc__)
    options.add_argument("run", help="of a ResNet-20")
    options.add_argument("dataset")
    options.add_argument("--torch", default="", help="a Python with the packages")
    options.add_argument("--data-name", default="CIFAR-10 (JPEG copy)")
    options.add_argument("--images", type=int, default=32)
    options.add_argument("--goal", type=float, default=0.25, help="standard error")
    options.add_argument("--runs", type=int, default=2)
    options.add_argument("--steps", type=int, default=30)
    options.add_argument("--products", default="resnet18:32", help="or nothing")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--only", default="", help="quantities or products")
    args = options.parse_args(argv)
    here = "benchmarks.peers.torch_packages:"
    if args.only != "products":
        ours = Remote(f"{__name__}:Ours", args.run, args.dataset, args.images)
        subject = ours.call("subject")
        peers = {
            name: Remote(here + made, *subject, python=args.torch)
            for name, made in PEERS.items()
        }
        about = {"network": subject[0], "data": args.data_name, "images": args.images}
        about["standard error"] = f"{100 * args.goal:g} %"
        about |= peers["PyHessian"].call("versions")
        rows = quantities(ours, peers, args.goal, args.runs, args.steps)
        for side in (ours, *peers.values()):
            side.stop()
        store("sharpness_packages", rows, **about)
    if args.only != "quantities":
        arch, _, count = args.products.partition(":")
        ours = Remote(f"{__name__}:OurProducts", arch, int(count))
        peer = Remote(here + "Curvlinops", *ours.call("subject"), python=args.torch)
        about = peer.call("versions")
        for compiled in (False, True):
            what = f"{arch}, {count} images"
            rows = products(ours, peer, compiled, what, args.rounds)
            store("sharpness_products", rows, **about)
        for side in (ours, peer):
            side.stop()

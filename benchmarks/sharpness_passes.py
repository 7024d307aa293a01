"""What passes over images cost, in gradients of the same images, and where time goes.

In turns, of networks at full width with weights as they are drawn; cost does not depend
on weights. A pass takes one output vector an image unless it says otherwise.

    python -m benchmarks sharpness_passes
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eqcifar import models, sharpness
from eqcifar.parallel import jit
from eqcifar.sharpness import Network
from eqcifar.sharpness._gradient_norms import Tapped, tappable
from eqcifar.sharpness._output_traces import _norms

from .shared import alternate, parser, row, spread, store

KEY = jax.random.key(7)
ALL = "plain", "theta", "filter"
CE = sharpness.get_loss("ce")
ROOTS = CE, sharpness.get_loss("mse"), sharpness.UnitLogits()


@jit
def gradient(network: Network, images: Any, labels: Any) -> Any:
    """That of the mean loss in all parameters."""

    def mean(params):
        return jnp.mean(jax.vmap(CE)(network(params, images), labels))

    return jax.grad(mean)(network.params)


@jit
def to_images(network: Network, images: Any, labels: Any) -> Any:
    """One pass forward and one back, without a gradient in any parameter."""

    def total(images):
        return jnp.sum(jax.vmap(CE)(network(network.params, images), labels))

    return jax.grad(total)(images)


@jit
def of_vectors(network: Network, images: Any, labels: Any, tapped: Tapped) -> Any:
    """The squared norms of those gradients alone that are formed for each image."""
    leaves, structure = jax.tree.flatten(network.params)

    def norms(image, label):
        def loss(taken):
            both = zip(leaves, taken, tapped, strict=True)
            own = [x if tap else y for x, y, tap in both]
            logits = network(jax.tree.unflatten(structure, own), image[None])
            return CE(logits[0], label)

        taken = [None if tap else x for x, tap in zip(leaves, tapped, strict=True)]
        return jax.tree.map(lambda g: jnp.sum(g**2), jax.grad(loss)(taken))

    return jax.vmap(norms)(images, labels)


def check(network: Network, batch: tuple[Any, ...], tapped: Tapped) -> float:
    """How far norms are from those of gradients that are formed, relatively."""
    few, formed = tuple(x[:4] for x in batch), (False,) * len(tapped)
    found, truth = (
        _norms(network, ROOTS[:1], ALL, each, few, jnp.arange(2), KEY)
        for each in (tapped, formed)
    )
    apart = max(
        float(jnp.max(jnp.abs(found[name] - truth[name]) / jnp.max(truth[name])))
        for name in ALL
    )
    assert apart < 1e-4, apart
    return apart


def measure(arch: str, size: int, few: int, rounds: int):
    """Measure and store the passes of an architecture, and the parts of one."""
    network = Network(*models.create(arch, key=KEY))
    images = jax.random.normal(KEY, (size, 3, 32, 32))
    batch = images, jnp.arange(size) % 10, jnp.arange(size)
    tapped = tappable(network, images)
    formed = (False,) * len(tapped)
    apart = check(network, batch, tapped)
    tangent = jax.tree.map(jnp.sign, network.params)
    one, all_classes = jnp.arange(1), jnp.arange(10)
    first = tuple(x[:few] for x in batch)
    ce = ROOTS[:1]
    programs: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "gradient": (gradient, (network, *batch[:2])),
        "forward and back": (to_images, (network, *batch[:2])),
        "of vectors": (of_vectors, (network, *batch[:2], tapped)),
        "plain, filter": (_norms, (network, ce, ALL[::2], tapped, batch, one, KEY)),
        "plain, filter, theta": (_norms, (network, ce, ALL, tapped, batch, one, KEY)),
        "the same, of trace, ntk and unit": (
            _norms,
            (network, ROOTS, ALL, tapped, batch, one, KEY),
        ),
        "plain, exact over 10 classes": (
            _norms,
            (network, ce, ALL[:1], tapped, batch, all_classes, None),
        ),
        "plain, gradients formed": (
            _norms,
            (network, ce, ALL[:1], formed, first, one, KEY),
        ),
        "jvp of jvp": (
            sharpness.quadratic_forms,
            (network, CE, *batch[:2], tangent),
        ),
    }
    compiled, compiling, memory = {}, {}, {}
    for name, (program, arguments) in programs.items():
        begin = time.perf_counter()
        compiled[name] = program.lower(*arguments).compile()
        compiling[name] = time.perf_counter() - begin
        plan = compiled[name].compiled.memory_analysis()
        memory[name] = plan.temp_size_in_bytes / size
    works = {
        name: partial(waited, compiled[name], arguments)
        for name, (_, arguments) in programs.items()
    }
    seconds = {k: np.array(v) for k, v in alternate(works, rounds).items()}
    seconds["plain, gradients formed"] *= size / few
    ratios = {name: list(each / seconds["gradient"]) for name, each in seconds.items()}
    what = f"{arch}, {size} images"
    rows = [spread(what, "gradient, s", list(seconds["gradient"]))]
    for name in programs:
        if name not in ("gradient", "forward and back", "of vectors"):
            rows.append(spread(what, name, ratios[name]))
    for name in ("plain, filter", "plain, filter, theta"):
        rows += [
            row(what, f"{name}: compile, s", compiling[name]),
            row(what, f"{name}: MB an image", memory[name] / 1e6),
        ]
    rows.append(row(what, "norms apart, relatively", apart))
    store("sharpness_passes", rows)
    middle = {name: float(np.median(each)) for name, each in ratios.items()}
    steps = (
        ("forward and back to the images", "forward and back", ""),
        ("scales, shifts, biases", "of vectors", "forward and back"),
        ("weights: plain, filter", "plain, filter", "of vectors"),
        ("weights: theta", "plain, filter, theta", "plain, filter"),
    )
    store(
        "sharpness_profile",
        [
            row(what, part, middle[name] - middle.get(before, 0.0), n=rounds)
            for part, name, before in steps
        ],
    )


def waited(program: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """The result, when it is there."""
    return jax.block_until_ready(program(*arguments))


def main(argv: list[str]):
    """Measure and store, network by network."""
    options = parser(__doc__)
    options.add_argument("--archs", default="resnet18,vgg,wrn16-4,resnet20")
    options.add_argument("--batch", type=int, default=64)
    options.add_argument("--few", type=int, default=16, help="for gradients formed")
    options.add_argument("--rounds", type=int, default=5)
    args = options.parse_args(argv)
    for arch in args.archs.split(","):
        measure(arch, args.batch, args.few, args.rounds)

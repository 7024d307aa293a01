"""What images cost: decoding, the cache, augmentation and its share of a step.

Decoded arrays are compared with those from the cache before any time is reported.

    python -m benchmarks.input FOLDER --arch resnet18 --batch 128
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eqcifar import data

from .records import store
from .speed import Case, spread
from .subject import Subject


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.perf_counter()
    result = jax.block_until_ready(call())
    return time.perf_counter() - begin, result


def files(folder: str, repeats: int) -> dict[str, Any]:
    """Seconds to load a folder for the first time, and from the cache."""
    first, again = [], []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as cache:
            os.environ["EQCIFAR_CACHE"] = cache
            seconds, decoded = timed(lambda: data.load(folder))
            first.append(seconds)
            seconds, read = timed(lambda: data.load(folder))
            again.append(seconds)
        assert decoded.fingerprint == read.fingerprint
    return {
        "images": {
            name: len(split) for name, split in data.load(folder).splits.items()
        },
        # Imports `datasets`, decodes, writes the cache to the disk.
        "decode_seconds": spread(first),
        "cache_seconds": spread(again),
    }


def pixels(case: Case, repeats: int) -> dict[str, Any]:
    """Images a second of the path from bytes to a network's inputs, and its share."""
    config, subject = case.config(), Subject(case)
    chosen = jnp.asarray(
        np.random.default_rng(0).permutation(case.images)[: case.batch]
    )

    def path(key, images, chosen):
        cut = data.augment(key, images[chosen])
        return data.normalise(cut, config.mean, config.std)

    compiled, key = jax.jit(path), jax.random.key(0)
    jax.block_until_ready(compiled(key, subject.images, chosen))
    subject.compile()
    subject.train(1)
    inputs = [
        timed(lambda: [compiled(key, subject.images, chosen) for _ in range(20)])[0]
        / 20
        for _ in range(repeats)
    ]
    steps = [subject.train(1) / case.steps for _ in range(repeats)]
    return {
        "arch": case.arch,
        "batch": case.batch,
        "augment_images_per_second": spread([case.batch / s for s in inputs]),
        "step_seconds": spread(steps),
        "share_of_step": float(np.median(inputs) / np.median(steps)),
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder")
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    case = Case(args.arch, args.batch, images=max(1024, args.batch))
    result = {
        "load_average": os.getloadavg()[0],
        "files": files(args.folder, args.repeats),
        "pixels": pixels(case, args.repeats),
    }
    found, path = result["files"], result["pixels"]
    print(
        f"{found['images']}: decoded in {found['decode_seconds']['median']:.2f} s, "
        f"read from the cache in {found['cache_seconds']['median']:.2f} s\n"
        f"augmentation: {path['augment_images_per_second']['median']:,.0f} images/s, "
        f"{100 * path['share_of_step']:.1g} % of a step of {args.arch}"
    )
    store("input", result)


if __name__ == "__main__":
    main()

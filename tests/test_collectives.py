"""What a training step sends between devices, read from the compiled program."""

import math
import re

import jax
import jax.numpy as jnp
import pytest

from eqcifar.config import TrainConfig
from eqcifar.models import count_parameters
from eqcifar.parallel import make_mesh, replicate
from eqcifar.training import initialise, make_recipe
from eqcifar.training._step import Epoch, epoch_order, make_steps

from .helpers import small_dataset, small_net

_SENT = re.compile(r"= (\(?[^=]*?\)?) (all-\w+|reduce-scatter|collective-\w+)\(")
_SHAPE = re.compile(r"\b[a-z]+(\d+)\[([\d,]*)\]")


def collectives(bn_group: int) -> list[tuple[str, int]]:
    """Kind and bytes of each of a step of `small_net` on 8 devices."""
    dataset, (model, state), mesh = small_dataset(), small_net(), make_mesh(8)
    config = TrainConfig(epochs=1, batch_size=64, warmup=0.0, bn_group=bn_group)
    start = initialise(model, state, config, 64, images=dataset.train.images)
    key = jax.random.key(0)
    order = epoch_order(key, jnp.asarray(0, jnp.int32), 64)
    images, labels = map(jnp.asarray, (dataset.train.images, dataset.train.labels))
    inputs = Epoch(*replicate((images, labels, order, key), mesh), 4)
    steps = make_steps(make_recipe(config, 64), mesh)
    compiled = steps.lower(inputs, replicate(start, mesh), 1).compile()  # pyright: ignore
    text = re.sub(r"/\*.*?\*/", "", compiled.compiled.as_text())
    return [
        (kind, sum(map(_bytes, _SHAPE.findall(shapes))))
        for shapes, kind in _SENT.findall(text)
    ]


def _bytes(shape: tuple[str, str]) -> int:
    bits, sizes = shape
    return int(bits) // 8 * math.prod(map(int, filter(None, sizes.split(","))))


@pytest.mark.parametrize("bn_group", [0, 8])
def test_a_step_sends_gradients_once_and_statistics_of_groups_that_are_split(bn_group):
    found = collectives(bn_group)
    assert {kind for kind, _ in found} == {"all-reduce"}
    model, _ = small_net()
    # Gradients, those of scales and shifts among them; the loss; the right guesses.
    rest = sum(size for _, size in found) - 4 * count_parameters(model) - 4 - 4
    # Of each channel of a split group a mean, two sums of squares and nothing else, for
    # the backward pass needs the gradients of scale and shift. Groups that lie on one
    # device each have their running mean and variance averaged with the gradients.
    numbers, together = (3, 5) if bn_group == 0 else (2, 2)
    assert rest == 4 * 6 * numbers
    assert len(found) == together

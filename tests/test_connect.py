"""The line between two networks, and the permutations of their channels."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqcifar import measurements, models, storage
from eqcifar.config import ConnectOptions, TrainConfig
from eqcifar.errors import UsageError
from eqcifar.models import channel_axes
from eqcifar.runs import named_arrays, replace_arrays

from .cli_tools import TINY, run_cli
from .helpers import random_network, small_dataset

NETWORKS = {
    "vgg": (models.VGG, {"depths": (1, 2), "channels": (4, 5), "hidden": (6,)}),
    "vgg without norm": (
        models.VGG,
        {"depths": (1, 1), "channels": (4, 5), "norm": "none"},
    ),
    "mlp": (models.MLP, {"hidden": (7, 5), "features": 192}),
    "resnet, zeros after": (
        models.ResNet,
        {"block": "basic", "shortcut": "padding", "depths": (1, 2), "channels": (4, 6)},
    ),
    "resnet, zeros around": (
        models.ResNet,
        {"block": "basic", "shortcut": "centred", "depths": (1, 1), "channels": (4, 7)},
    ),
    "resnet, bottleneck": (
        models.ResNet,
        {
            "block": "bottleneck",
            "shortcut": "projection",
            "depths": (2, 1),
            "channels": (3, 4),
            "norm": "layer",
        },
    ),
    "resnet of cifar_jax": (
        models.ResNet,
        {
            "block": "late-stride",
            "shortcut": "pooled",
            "depths": (1, 1),
            "channels": (4, 5),
        },
    ),
    "preact": (models.PreActResNet, {"depths": (1, 2), "channels": (4, 5)}),
    "wide resnet": (models.WideResNet, {"depth": 10, "widen": 1, "width": 0.25}),
    "airbench": (models.Airbench, {"channels": (5, 6)}),
    "airbench, deep": (models.Airbench, {"channels": (5, 6), "depth": 3}),
}


def arrays_of(*network: Any) -> dict[str, Any]:
    return dict(named_arrays(*network))


def make(name, seed=0):
    kind, options = NETWORKS[name]
    build = eqx.nn.make_with_state(kind)
    made = random_network(build, 4, seed=seed, **options)
    return made.model, made.state


def shuffled(model, state, seed=1):
    """The network with every group of channels in another order."""
    rng, found = np.random.default_rng(seed), {}
    for wires in channel_axes(model).values():
        for name, size in (group for wire in wires for group in wire or ()):
            order = rng.permutation(size)
            # Not as they were.
            same = np.array_equal(order, np.arange(size))
            found[name] = np.roll(order, 1) if same else order
    return *measurements.permute(model, state, found), found


@eqx.filter_jit
def logits(model, state, images):
    model = eqx.nn.inference_mode(model)
    return jax.vmap(lambda x: model(x, state)[0])(images)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_permuted_network_is_the_same_function_and_is_recovered(name):
    model, state = make(name)
    other, other_state, orders = shuffled(model, state)
    images = np.random.default_rng(0).normal(size=(3, 3, 16, 16)).astype(np.float32)
    images = images[..., :8, :8] if name == "mlp" else images
    one = np.asarray(logits(model, state, images))
    two = np.asarray(logits(other, other_state, images))
    assert np.abs(one - two).max() < 1e-5 * np.abs(one).max()
    # All but those of the image and of the classes are moved.
    arrays, moved = arrays_of(model, state), arrays_of(other, other_state)
    same = {k for k in arrays if np.array_equal(arrays[k], moved[k])}
    assert same <= {"classifier.bias"}
    assert sum(len(order) for order in orders.values()) > 8
    back, back_state, found = measurements.align(model, state, other, other_state)
    for key, array in arrays_of(back, back_state).items():
        assert np.array_equal(array, arrays[key]), key
    for group, order in orders.items():
        assert np.array_equal(order[found[group]], np.arange(len(order)))


def test_aligning_two_networks_brings_them_nearer():
    one, two = make("wide resnet", 0), make("wide resnet", 1)

    def product(model, state):
        pairs = zip(
            arrays_of(*one).items(), arrays_of(model, state).values(), strict=True
        )
        return sum(
            float(jnp.vdot(a, b)) for (name, a), b in pairs if "running" not in name
        )

    best = product(*measurements.align(*one, *two)[:2])
    assert best > product(*two)
    # No random order is as near, nor does changing two channels of a group help.
    assert best > max(product(*shuffled(*two, seed)[:2]) for seed in range(20))
    found = measurements.align(*one, *two)[2]
    for group, order in found.items():
        other = order.copy()
        other[[0, 1]] = order[[1, 0]]
        swapped = measurements.permute(*two, {**found, group: other})
        assert product(*swapped) <= best + 1e-4, group


def test_what_cannot_be_permuted_is_refused_in_a_line():
    with pytest.raises(UsageError, match="channels of a ViT cannot be permuted"):
        channel_axes(
            eqx.filter_eval_shape(models.ViT, 4, depth=1, key=jax.random.key(0))
        )
    grouped = eqx.filter_eval_shape(
        models.VGG,
        4,
        depths=(1,),
        channels=(8,),
        norm="group",
        key=jax.random.key(0),
    )
    with pytest.raises(UsageError, match="networks with --norm group cannot be"):
        channel_axes(grouped)
    with pytest.raises(UsageError, match="if they are of one architecture"):
        measurements.align(*make("vgg"), *make("vgg without norm"))


def measured(model, state, seed=0):
    """A network of eight-pixel images, as if trained."""
    config = TrainConfig(arch="mlp", loss="mse", seed=seed)
    return measurements.MeasuredNetwork(
        *(Path(f"seed{seed}"), Path("table.tsv"), model, state, config),
        dataset=small_dataset(30, 25),
        step=0,
        digest=str(seed),
        same_data=True,
    )


def numpy_losses(weights, images, labels):
    """Half the squared error of each image, and whether it is right, in float64."""
    x = (images.astype(float) / 255 - 0.5) / 0.25
    x = np.moveaxis(x, -1, 1).reshape(len(x), -1)
    for number in range(2):
        x = x @ weights[f"hidden.{number}.weight"].T + weights[f"hidden.{number}.bias"]
        x = np.maximum(x, 0)
    f = x @ weights["classifier.weight"].T + weights["classifier.bias"]
    return ((f - np.eye(4)[labels]) ** 2).sum(1) / 2, f.argmax(1) == labels


def test_the_line_is_that_of_the_mixed_weights():
    ends = measured(*make("mlp", 0), 0), measured(*make("mlp", 1), 1)
    options = ConnectOptions(points=5, samples=20)
    seen = []
    found = measurements.connect(
        *ends, options, devices=1, report=lambda *work: seen.append(work)
    )
    assert seen == [(k, 5) for k in range(6)]
    arrays = [arrays_of(end.model, end.state) for end in ends]
    arrays = [{k: np.asarray(x, float) for k, x in each.items()} for each in arrays]
    squares = sum(((arrays[0][k] - arrays[1][k]) ** 2).sum() for k in arrays[0])
    assert found.distance == pytest.approx(squares**0.5, rel=1e-6)
    for name in ("train", "test"):
        split = ends[0].dataset.splits[name]
        order = np.random.default_rng(0).permutation(len(split))[:20]
        rows = [
            numpy_losses(
                {k: (1 - t) * arrays[0][k] + t * arrays[1][k] for k in arrays[0]},
                np.asarray(split.images)[order],
                np.asarray(split.labels)[order],
            )
            for t in (0, 0.25, 0.5, 0.75, 1)
        ]
        losses, right = map(np.stack, zip(*rows, strict=True))
        line = found.lines[name]
        assert line.loss == pytest.approx(losses.mean(1), rel=1e-5)
        assert line.accuracy == pytest.approx(right.mean(1))
        error = losses.std(1, ddof=1) / 20**0.5
        assert line.loss_error == pytest.approx(error, rel=1e-5)
        t = found.points[:, None]
        above = losses - (1 - t) * losses[0] - t * losses[-1]
        at = above.mean(1).argmax()
        barrier = line.barrier
        assert barrier.at == found.points[at]
        assert barrier.value == pytest.approx(above[at].mean(), abs=1e-6)
        error = above[at].std(ddof=1) / 20**0.5
        assert barrier.standard_error == pytest.approx(error, abs=1e-6)
        assert barrier.interval()[1] == pytest.approx(
            barrier.value + 1.96 * barrier.standard_error
        )


def test_a_permuted_copy_has_a_barrier_until_it_is_aligned():
    model, state = make("mlp")
    ends = measured(model, state), measured(*shuffled(model, state)[:2], 1)
    apart = measurements.connect(*ends, ConnectOptions(points=5), devices=1)
    joined = measurements.connect(
        *ends, ConnectOptions(points=5, align="weights"), devices=1
    )
    assert apart.moved == 0 < joined.moved
    assert joined.before == apart.distance > 0
    assert joined.distance == 0
    line = joined.lines["test"]
    assert line.barrier.value == pytest.approx(0, abs=1e-6)
    assert line.loss == pytest.approx(np.full(5, line.loss[0]), rel=1e-5)
    assert abs(apart.lines["test"].loss[2] - line.loss[0]) > 1e-3


def test_statistics_are_of_the_point_and_not_of_the_ends():
    """Whatever running statistics the ends bring, the line is the same."""
    options = ConnectOptions(samples=16, batch_size=8, points=3)
    model, state = make("resnet, zeros after")
    arrays = arrays_of(model, state)
    wrong = {k: 3 * x if "running" in k else x for k, x in arrays.items()}
    found = [
        measurements.connect(
            measured(model, first),
            measured(*make("resnet, zeros after", 1), 1),
            options,
            devices=1,
        )
        for first in (state, replace_arrays(model, state, wrong)[1])
    ]
    for name in ("train", "test"):
        one, two = (each.lines[name].loss for each in found)
        assert np.array_equal(one, two)


def test_unlike_networks_are_refused():
    one = measured(*make("mlp"))
    other = dataclasses.replace(one, config=TrainConfig(arch="vgg"))
    with pytest.raises(UsageError, match="no line joins .* arch is mlp there and vgg"):
        measurements.connect(one, other, ConnectOptions())
    wider = measured(*make("vgg"))
    with pytest.raises(UsageError, match="arrays differ in shape"):
        measurements.connect(one, wider, ConnectOptions())


def test_the_command(tmp_path):
    for seed in (0, 1):
        run = *TINY, "--epochs", 1, "--seed", seed, "--out", tmp_path
        assert run_cli(*run).exit_code == 0
    ends = [run.path for run in storage.find_runs(tmp_path)]
    command = "connect", *ends, "--samples", 16, "--points", 3, "--devices", 1
    shown = run_cli(*command, "--align", "weights", "--plot", tmp_path / "plots")
    assert shown.exit_code == 0, shown.stderr
    for part in (
        "SYNTHETIC",
        "Barrier on 16 test images: loss ",
        "channels were moved",
    ):
        assert part in shown.stdout, part
    assert len(list((tmp_path / "plots").iterdir())) == 2
    values = json.loads(run_cli(*command, "--json").stdout)
    assert values["points"] == [0, 0.5, 1]
    assert values["moved"] == 0
    assert set(values["splits"]["train"]) >= {"loss", "accuracy", "barrier"}
    refused = run_cli("connect", ends[0], tmp_path / "none")
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)

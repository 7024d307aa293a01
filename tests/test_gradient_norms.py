"""Norms of gradients that are not formed, beside those of gradients that are."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqcifar import models
from eqcifar.sharpness import Network
from eqcifar.sharpness._gradient_norms import gradient_norms, tappable
from eqcifar.sharpness._network import scaling

from .sharpness_tools import filled

SCALED = "plain", "theta", "filter"


class Layers(eqx.Module):
    """Layers of every kind, some used twice, by hand, over tokens, or in a loop."""

    twice: eqx.nn.Conv2d
    spread: eqx.nn.Conv2d
    grouped: eqx.nn.Conv2d
    own: models.Conv2d
    group_norm: eqx.nn.GroupNorm
    layer_norm: eqx.nn.LayerNorm
    embedding: eqx.nn.Embedding
    attention: eqx.nn.MultiheadAttention
    shared: eqx.nn.Linear
    by_hand: eqx.nn.Linear
    looped: eqx.nn.Linear
    inside: eqx.nn.Sequential
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = iter(jax.random.split(key, 12))
        conv, linear = eqx.nn.Conv2d, eqx.nn.Linear
        self.twice = conv(3, 4, 4, stride=4, padding="VALID", key=next(keys))
        self.spread = conv(
            4, 4, 3, stride=2, dilation=2, padding="SAME", key=next(keys)
        )
        self.grouped = conv(4, 4, 3, groups=2, padding=1, key=next(keys))
        self.own = models.Conv2d(4, 4, 3, stride=2, padding="SAME", key=next(keys))
        self.group_norm = eqx.nn.GroupNorm(2, 4)
        self.layer_norm = eqx.nn.LayerNorm(4)
        self.embedding = eqx.nn.Embedding(10, 4, key=next(keys))
        self.attention = eqx.nn.MultiheadAttention(
            2, 4, use_query_bias=True, key=next(keys)
        )
        self.shared = linear(4, 4, key=next(keys))
        self.by_hand = linear(4, 4, key=next(keys))
        self.looped = linear(4, 4, key=next(keys))
        inner = linear(4, 4, use_bias=False, key=next(keys))
        self.inside = eqx.nn.Sequential([inner, eqx.nn.Lambda(jax.nn.gelu)])
        self.head = linear(4, 5, key=next(keys))

    def __call__(self, x, state, *, key=None):
        x = self.group_norm(self.twice(x) + self.twice(jnp.flip(x, 1)))
        x = x + jnp.tanh(self.grouped(x)) + self.spread(x).sum() + self.own(x).sum()
        tokens = x.reshape(4, -1).T
        tokens = jax.vmap(self.layer_norm)(tokens)
        tokens = tokens + jax.vmap(self.embedding)(jnp.arange(len(tokens)) % 10)
        tokens = tokens + self.attention(tokens, tokens, tokens)
        tokens = jax.vmap(self.shared)(tokens) + jax.vmap(self.shared)(tokens**2)
        tokens = jnp.tanh(tokens) @ self.by_hand.weight.T
        tokens = jax.lax.scan(
            lambda t, _: (jax.vmap(self.looped)(t), None), tokens, None, 2
        )[0]
        return self.head(jax.vmap(self.inside)(tokens).mean(0)), state


class Standardised(eqx.nn.Linear):
    """A layer that does more with its weight than a product."""

    def __call__(self, x, *, key=None):
        return (self.weight / jnp.linalg.norm(self.weight)) @ x


class Unusual(eqx.Module):
    """A weight in two places, and a subclass of a known layer."""

    shared: eqx.nn.Shared
    standardised: Standardised
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 4)
        one, two = (eqx.nn.Linear(6, 6, key=each) for each in keys[:2])
        self.shared = eqx.nn.Shared(
            (one, two), lambda pair: pair[1].weight, lambda pair: pair[0].weight
        )
        kind: Any = Standardised
        self.standardised = kind(6, 6, use_bias=False, key=keys[2])
        self.head = eqx.nn.Linear(6, 5, key=keys[3])

    def __call__(self, x, state, *, key=None):
        first, second = self.shared()
        x = second(jax.nn.gelu(first(x.reshape(6, -1).mean(1))))
        return self.head(jnp.tanh(self.standardised(x))), state


def small_resnet(key):
    return models.ResNet(
        5, block="basic", shortcut="projection", depths=(1, 1), channels=(4, 6), key=key
    )


def unnormalised_resnet(key):
    return models.ResNet(
        5,
        block="basic",
        shortcut="projection",
        depths=(1, 1),
        channels=(4, 6),
        activation="silu",
        norm="none",
        key=key,
    )


def small_vit(key):
    return models.ViT(5, image=16, size=6, depth=1, key=key)


def formed(network, image, cotangents):
    """The norms from whole gradients, as `jax.vjp` has them."""
    _, pull = jax.vjp(lambda p: network(p, image[None])[0], network.params)
    gradients = jax.tree.leaves(jax.vmap(lambda c: pull(c)[0])(cotangents))
    return {
        name: jnp.stack(
            [
                jnp.sum(d * g**2, range(1, g.ndim))
                for d, g in zip(
                    jax.tree.leaves(scaling(network.params, name)),
                    gradients,
                    strict=True,
                )
            ],
            axis=1,
        )
        for name in SCALED
    }


@pytest.mark.parametrize(
    ("make", "count"),
    [
        *((Layers, 8), (small_resnet, 7), (unnormalised_resnet, 7), (small_vit, 6)),
        (Unusual, 1),
    ],
)
@pytest.mark.parametrize(
    "costs",
    [{}, {"_LARGE": 0, "_TRAFFIC": 0}, {"_TRAFFIC": 10**6, "_ROOM": 2**21}],
    ids=["as they are", "example by example", "by pairs"],
)
def test_norms_are_those_of_gradients(x64, make, count, costs, monkeypatch):
    for name, value in costs.items():
        monkeypatch.setattr(f"eqcifar.sharpness._gradient_norms.{name}", value)
    model, state = eqx.nn.make_with_state(make)(jax.random.key(0))
    network = Network(model, state)
    images = jax.random.normal(jax.random.key(1), (3, 3, 16, 16))
    cotangents = jax.random.normal(jax.random.key(2), (3, 2, 5))
    tapped = tappable(network, images)
    assert sum(tapped) == count

    @jax.jit
    def both(image, cotangent):
        own = gradient_norms(network, image, lambda _: cotangent, SCALED, tapped)
        return own, formed(network, image, cotangent)

    found, truth = jax.vmap(both)(images, cotangents)
    for name in SCALED:
        np.testing.assert_allclose(found[name], truth[name], rtol=1e-12)


def _smallest():
    """Each registered architecture, narrow, and with two of its blocks or stages."""
    found = {}
    for name, build in models.ARCHITECTURES.items():
        build = build if isinstance(build, partial) else partial(build)
        options = {"width": 1 / 16, **build.keywords}
        if "depths" in options:
            options["depths"] = 1, 1
        if "depths" in options or "channels" in options:
            options["channels"] = 64, 96
        if "hidden" in options:
            options["hidden"] = (64,)
        if build.func is models.WideResNet:
            options |= {"depth": 10, "widen": 4}
        if build.func is models.ViT:
            options |= {"depth": 1}
        alike = repr((build.func, sorted(options.items())))
        found.setdefault(alike, (name, partial(build.func, 3, **options)))
    return [pytest.param(build, id=name) for name, build in found.values()]


@pytest.mark.parametrize("build", _smallest())
def test_norms_of_every_architecture_are_those_of_gradients(x64, build):
    model, state = filled(lambda key: build(key=key))
    network = Network(model, state)
    images = jax.random.normal(jax.random.key(1), (2, 3, 32, 32))
    cotangents = jax.random.normal(jax.random.key(2), (2, 1, 3))
    tapped = tappable(network, images)
    # All weights of layers are tapped; two arrays of a ViT are none.
    named = zip(network.leaves, jax.tree.leaves(network.params), tapped, strict=True)
    formed_ones = {name for name, leaf, tap in named if leaf.ndim > 1 and not tap}
    assert formed_ones <= {"pos_embed", "cls_token"}, formed_ones

    @jax.jit
    def both(image, cotangent):
        own = gradient_norms(network, image, lambda _: cotangent, SCALED, tapped)
        return own, formed(network, image, cotangent)

    found, truth = jax.vmap(both)(images, cotangents)
    for name in SCALED:
        np.testing.assert_allclose(found[name], truth[name], rtol=1e-12)


def test_only_layers_that_are_called_once_are_tapped():
    model, state = eqx.nn.make_with_state(Layers)(jax.random.key(0))
    network = Network(model, state)
    tapped = tappable(network, jnp.zeros((1, 3, 16, 16)))
    names = {n for n, tap in zip(network.leaves, tapped, strict=True) if tap}
    assert {name.split(".")[0] for name in names} == {
        *("spread", "own", "attention", "inside", "head"),
    }

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqcifar import models
from eqcifar.errors import UsageError
from eqcifar.models import Conv2d
from eqcifar.models._layers import (
    channels_last,
    classifier,
    hidden_linear,
    max_over_space,
    max_pool,
    normal,
)

KEY = jax.random.key(0)
MAPPED = {"axis_name": "batch", "in_axes": (0, None), "out_axes": (0, None)}

# Published counts, for 10 classes. VGG and resnet18 to resnet152: as in
# kuangliu/pytorch-cifar (`vgg` is that of the code this package started from);
# resnet20 to resnet110: 0.27, 0.46, 0.66, 0.85 and 1.7 million in table 6 of He et
# al.; wide ResNets: 36.5, 2.7 and 8.9 million in Zagoruyko & Komodakis; airbench94:
# 1.97 million in Jordan; airbench96: counted of his script.
# What published code has, as PyTorch counts it:
# vgg11 to 19, resnet18 to 152: kuangliu/pytorch-cifar at 49b7aa9.
# resnet20 to 110: akamaster/pytorch_resnet_cifar10 at d5489e8, whose README has 0.27,
# 0.46, 0.66, 0.85 and 1.7 M.
# wrn: xternalz/WideResNet-pytorch at 1171f93.
PARAMETERS = {
    "vgg": 10_203_978,
    "vgg11": 9_231_114,
    "vgg13": 9_416_010,
    "vgg16": 14_728_266,
    "vgg19": 20_040_522,
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
    "resnet18": 11_173_962,
    "resnet34": 21_282_122,
    "resnet50": 23_520_842,
    "resnet101": 42_512_970,
    "resnet152": 58_156_618,
    "wrn16-4": 2_748_890,
    "wrn28-10": 36_479_194,
    "wrn40-4": 8_949_210,
    "airbench94": 1_972_792,
    "airbench96": 9_918_776,
}
# chenyaofo/pytorch-cifar-models at 786c162: ResNets with projection shortcuts and VGGs;
# 0.27, 0.47, 0.66, 0.86, 9.76, 9.94, 15.25 and 20.57 M in its README.
VARIANTS = {
    "resnet20": ({"shortcut": "projection"}, 272_474),
    "resnet32": ({"shortcut": "projection"}, 466_906),
    "resnet44": ({"shortcut": "projection"}, 661_338),
    "resnet56": ({"shortcut": "projection"}, 855_770),
    "resnet110": ({"shortcut": "centred"}, 1_727_962),
    "vgg11-fc3": ({}, 9_756_426),
    "vgg13-fc3": ({}, 9_941_322),
    "vgg16-fc3": ({}, 15_253_578),
    "vgg19-fc3": ({}, 20_565_834),
    # As with BatchNorm: kuangliu's. Without any, 14,714,688 of Simonyan & Zisserman's
    # convolutions and the classifier.
    "resnet18": ({"norm": "group"}, 11_173_962),
    "resnet34": ({"norm": "layer", "activation": "gelu"}, 21_282_122),
    "vgg16": ({"norm": "none"}, 14_714_688 + 5_130),
    # kuangliu/pytorch-cifar at 49b7aa9.
    "preact18": ({}, 11_171_146),
    "preact34": ({}, 21_279_306),
    # timm 1.0.31's VisionTransformer of 12 blocks, 192 channels and 4x4 patches.
    "vit-tiny": ({}, 5_362_762),
}


def shapes(name, *args, **kwargs):
    return eqx.filter_eval_shape(models.create, name, *args, **kwargs, key=KEY)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_as_published(name):
    assert models.count_parameters(shapes(name)[0]) == PARAMETERS[name]


@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_of_variants_are_as_published(name):
    variant, count = VARIANTS[name]
    assert models.count_parameters(shapes(name, **variant)[0]) == count


def test_parameters_of_networks_for_other_images_are_as_published():
    # LeNet-300-100 for MNIST, as Keras counts it; and DeiT-Ti for ImageNet, as timm
    # 1.0.31 does: 5.7 M on its model card.
    mlp = eqx.filter_eval_shape(models.MLP, 10, features=784, key=KEY)
    assert models.count_parameters(mlp) == 266_610
    vit = eqx.filter_eval_shape(models.ViT, 1000, image=224, patch=16, key=KEY)
    assert models.count_parameters(vit) == 5_717_416


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("resnet18", 555),
        ("resnet20", 41),
        ("resnet110", 253),
        ("wrn28-10", 5243),
        # By hand; its script says 4.91e15 for 37 epochs of 48 batches, which is 450.
        ("airbench96", 452),
    ],
)
def test_multiply_adds_are_as_published(name, millions):
    count = models.count_multiply_adds(*shapes(name))
    assert round(count / 1e6) == millions


def test_multiply_adds_by_hand():
    model, state = shapes("vgg11", 7, width=1 / 64)
    sizes = [(3, 1, 32), (1, 2, 16), (2, 4, 8), (4, 4, 8)]
    sizes += [(4, 8, 4), (8, 8, 4), (8, 8, 2), (8, 8, 2)]
    by_hand = sum(9 * a * b * size**2 for a, b, size in sizes) + 8 * 7
    assert models.count_multiply_adds(model, state) == by_hand
    # Another image size: the classifier does not grow.
    double = models.count_multiply_adds(model, state, image_size=64)
    assert double == 4 * (by_hand - 56) + 56


def test_a_scan_counts_as_often_as_it_runs():
    class Scanned(eqx.Module):
        matrix: jax.Array

        def __call__(self, x, state):
            x = x.reshape(-1)
            step = lambda x, _: (self.matrix @ x, None)  # noqa: E731
            return jax.lax.scan(step, x, length=5)[0], state

    model = Scanned(jnp.ones((12, 12)))
    count = models.count_multiply_adds(model, eqx.nn.State(model), image_size=2)
    assert count == 5 * 12**2


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        *((name, {}) for name in ("vgg", "vgg11", "resnet8", "resnet50", "wrn10-1")),
        *((name, {}) for name in ("airbench93", "preact18", "mlp", "vit-tiny")),
        ("resnet8", {"norm": "group", "activation": "gelu"}),
        ("resnet8", {"norm": "none", "activation": "silu"}),
        ("wrn10-1", {"norm": "layer", "activation": "tanh"}),
        ("vgg11", {"norm": "none", "activation": "elu"}),
    ],
)
def test_computes_in_the_dtype_of_the_parameters(name, variant):
    model, state = shapes(name, 7, width=1 / 4, **variant)
    arrays, flags = eqx.partition(model, lambda leaf: hasattr(leaf, "dtype"))
    x = jnp.zeros((2, 3, 32, 32), jnp.bfloat16)

    def run(arrays, state):
        half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), arrays)
        return jax.vmap(eqx.combine(half, flags), **MAPPED)(x, state)

    logits, new_state = jax.eval_shape(run, arrays, state)
    assert (logits.shape, logits.dtype) == ((2, 7), jnp.bfloat16)
    assert jax.tree.leaves(new_state) == jax.tree.leaves(state)


def test_initial_weights():
    for layer, variance in [
        (Conv2d(64, 48, 3, use_bias=True, key=KEY), 2 / (9 * 64)),
        (Conv2d(256, 128, 1, use_bias=True, key=KEY), 2 / 256),
        (hidden_linear(256, 128, key=KEY), 2 / 256),
        (classifier(256, 128, key=KEY), 1 / 256),
    ]:
        weight = np.asarray(layer.weight)
        np.testing.assert_allclose(weight.var(), variance, rtol=0.03)
        # A normal distribution, not a uniform one: kurtosis 3, not 1.8.
        np.testing.assert_allclose((weight**4).mean(), 3 * variance**2, rtol=0.1)
        assert layer.bias is not None
        assert not layer.bias.any()


def test_weights_are_drawn_as_without_jit():
    plain = 0.3 * jax.random.normal(KEY, (3 * 5 * 7,)).reshape(3, 5, 7)
    np.testing.assert_array_equal(normal(KEY, (3, 5, 7), 0.3), plain)


@pytest.mark.parametrize(
    ("name", "before", "after", "depth"),
    [("airbench94", 16, 64, 2), ("airbench96", 32, 96, 3)],
)
def test_airbench_starts_from_partial_identities(name, before, after, depth):
    model, _ = models.create(name, width=1 / 4, key=KEY)
    x = jax.random.normal(KEY, (5, 5, before))
    assert isinstance(model, models.Airbench)
    group = model.groups[1]
    np.testing.assert_allclose(group.conv1(x)[..., :before], x, rtol=1e-5, atol=1e-5)
    rest = group.conv1.weight[before:]
    # Of 6,912 numbers or more: four standard errors.
    assert jnp.var(rest) == pytest.approx(1 / (3 * before * 9), rel=0.07)
    y = jax.random.normal(KEY, (5, 5, after))
    others = [conv for conv in (group.conv2, group.conv3) if conv is not None]
    assert len(others) == depth - 1
    for conv in others:
        np.testing.assert_allclose(conv(y), y, rtol=1e-5, atol=1e-5)


def test_the_key_decides_the_weights():
    def make(seed):
        model = models.ResNet(
            4,
            block="basic",
            shortcut="padding",
            depths=(2,),
            channels=(4,),
            key=jax.random.key(seed),
        )
        return [x for x in jax.tree.leaves(model) if getattr(x, "ndim", 0) > 1]

    first, again, other = make(0), make(0), make(1)
    assert eqx.tree_equal(first, again)
    assert not any((a == b).any() for a, b in zip(first, other, strict=True))
    # Layers of equal shape start apart.
    _, *kernels, _ = first
    assert len({kernel.tobytes() for kernel in map(np.asarray, kernels)}) == 4


def test_dropout_is_only_for_training():
    x, keys = jnp.zeros((2, 3, 8, 8)), jax.random.split(KEY, 2)

    def run(model, state, x, keys):
        call = lambda x, key: model(x, state, key=key)  # noqa: E731
        return jax.vmap(call, axis_name="batch", out_axes=(0, None))(x, keys)[0]

    def count_draws(model, state, keys):
        jaxpr, _, _ = eqx.filter_make_jaxpr(run)(model, state, x, keys)
        return str(jaxpr).count("random_bits")

    model, state = shapes("wrn10-1", dropout=0.5)
    assert count_draws(model, state, keys) == len(model.blocks)
    assert count_draws(eqx.nn.inference_mode(model), state, None) == 0
    assert count_draws(*shapes("wrn10-1"), keys=None) == 0
    with pytest.raises(RuntimeError, match="requires a key"):
        count_draws(model, state, None)


@pytest.mark.parametrize("size", [(2, 2), (4, 6), (5, 7)])
def test_max_pool(size):
    x = np.random.default_rng(0).integers(9, size=(*size, 3)).astype(np.float32)
    height, width = size[0] // 2, size[1] // 2
    corners = [x[i : 2 * height : 2, j : 2 * width : 2] for i in (0, 1) for j in (0, 1)]
    np.testing.assert_array_equal(max_pool(jnp.asarray(x)), np.max(corners, axis=0))


def test_max_pool_has_the_gradient_of_pytorch():
    torch = pytest.importorskip("torch", reason="pip install 'eqcifar[torch]'")
    # Few values, so ties are many.
    x = np.random.default_rng(0).integers(3, size=(3, 9, 8)).astype(np.float32)
    theirs = torch.from_numpy(x).requires_grad_()
    pooled = torch.nn.functional.max_pool2d(theirs, 2)
    dy = np.random.default_rng(1).standard_normal(pooled.shape).astype(np.float32)
    pooled.backward(torch.from_numpy(dy))
    _, pull_back = jax.vjp(max_pool, channels_last(jnp.asarray(x)))
    (dx,) = pull_back(channels_last(jnp.asarray(dy)))
    np.testing.assert_array_equal(dx, channels_last(jnp.asarray(theirs.grad.numpy())))


def test_max_pool_passes_its_gradient_by_selection():
    """Neither scattered, nor found again by equality with a value rounded otherwise."""
    gradient = jax.grad(lambda x: max_pool(x).sum())
    text = str(jax.make_jaxpr(gradient)(jnp.ones((8, 8, 3))))
    assert not any(
        word in text for word in ["scatter", "reduce_window", "argmax", " eq "]
    )


def test_max_pool_keeps_nan():
    x = jnp.zeros((4, 4, 1)).at[[0, 0, 3, 3], [0, 3, 0, 3]].set(jnp.nan)
    assert jnp.isnan(max_pool(x)).all()


def test_max_over_space():
    x = jax.random.normal(KEY, (3, 5, 4))
    np.testing.assert_array_equal(max_over_space(x), jnp.max(x, axis=(0, 1)))
    # All of the gradient goes to one of equal values.
    gradient = jax.grad(lambda x: max_over_space(x).sum())(jnp.ones((3, 3, 4)))
    np.testing.assert_array_equal(gradient.sum((0, 1)), 1)
    np.testing.assert_array_equal(jnp.count_nonzero(gradient, axis=(0, 1)), 1)


def test_airbench_takes_images_of_9x9_or_more():
    model, state = shapes("airbench94", width=1 / 16)
    assert models.count_multiply_adds(model, state, image_size=9) > 0
    with pytest.raises(UsageError, match="of 8x8 are too small: .* 9x9 or more"):
        models.count_multiply_adds(model, state, image_size=8)


def test_vgg_says_that_an_image_is_too_small():
    model, state = shapes("vgg", width=1 / 16)
    with pytest.raises(UsageError, match="of 16x16 are too small: .* 32x32 or more"):
        models.count_multiply_adds(model, state, image_size=16)


def test_width_multiplies_channels():
    model, _ = shapes("wrn16-4", width=0.5)
    assert len(model.stem.weight) == 8
    assert [len(b.conv2.weight) for b in model.blocks] == [32, 32, 64, 64, 128, 128]
    model, _ = shapes("vgg", width=1.5)
    assert [linear.out_features for linear in model.hidden] == [768] * 3
    assert models.count_parameters(shapes("resnet18", width=0.5)[0]) == 2_797_610


@pytest.mark.parametrize("width", [0.0, -1.0, 0.03, float("nan"), float("inf")])
def test_width_leaves_a_channel(width):
    with pytest.raises(UsageError, match="give a width above 0.03125"):
        shapes("resnet20", width=width)


class Linear(eqx.Module):
    """Takes no width; its dropout is only kept."""

    linear: eqx.nn.Linear
    dropout: float

    def __init__(self, num_classes, *, dropout=0.0, key):
        self.linear = eqx.nn.Linear(3, num_classes, key=key)
        self.dropout = dropout

    def __call__(self, x, state, *, key=None):
        return self.linear(x.mean((1, 2))), state


def test_a_line_in_the_dictionary_makes_an_architecture(monkeypatch):
    monkeypatch.setitem(models.ARCHITECTURES, "linear", Linear)
    model, state = models.create("linear", 4, dropout=0.5, key=KEY)
    assert model.dropout == 0.5
    assert model(jnp.ones((3, 2, 2)), state)[0].shape == (4,)
    with pytest.raises(UsageError, match="linear has no width: leave it at 1, .*vgg"):
        models.create("linear", width=2.0, key=KEY)
    with pytest.raises(UsageError, match="one that has: .*, linear$"):
        models.create("vgg", dropout=0.5, key=KEY)
    models.check_name("linear")


def test_every_name_can_be_made():
    assert set(PARAMETERS) <= set(models.ARCHITECTURES)
    assert models.count_parameters(shapes("wrn22-8")[0]) == 17_158_106


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "resnt18",
            r"unknown architecture 'resnt18'; did you mean 'resnet18'\?$",
        ),
        ("ResNet50", r"did you mean 'resnet50'"),
        ("wrn-28-10", r"did you mean 'wrn28-10'"),
        (
            "transformer",
            r"unknown architecture 'transformer'; there are vgg, .*, wrn<depth>-<k>$",
        ),
        ("", r"unknown architecture ''"),
        ("wrn27-10", r"cannot be 27 layers deep.*6n \+ 4.*nearest: 22 or 28"),
        ("wrn4-1", r"nearest: 10$"),
        ("wrn16-0", r"at least 1 wide, not 0"),
    ],
)
def test_wrong_names_are_answered(name, message):
    with pytest.raises(UsageError, match=message):
        models.create(name, key=KEY)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            {"name": "resnet18", "dropout": 0.1},
            "resnet18 has no dropout: leave it at 0, .*wrn16-4",
        ),
        ({"name": "wrn16-4", "dropout": 1.0}, "from 0 to below 1, not 1"),
        ({"name": "wrn16-4", "dropout": -0.5}, "from 0 to below 1, not -0.5"),
        ({"name": "vgg", "num_classes": 0}, "at least 1, not 0"),
    ],
)
def test_wrong_options_are_answered(kwargs, message):
    with pytest.raises(UsageError, match=message):
        models.create(**kwargs, key=KEY)

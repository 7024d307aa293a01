"""Networks of PyTorch repositories here and there: logits and gradients, in float64.

    python -m benchmarks imported --code FOLDER

FOLDER has clones of kuangliu/pytorch-cifar, chenyaofo/pytorch-cifar-models,
akamaster/pytorch_resnet_cifar10, weiaicunzai/pytorch-cifar100 and
xternalz/WideResNet-pytorch, under these names without the owner; torchvision and timm
are taken where they are installed. With --weights, a file of theirs is measured in both
instead, on the same images.
"""

import argparse
import copy
import importlib
import importlib.util
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from eqcifar import data, exchange, sharpness, training
from eqcifar.config import ImportOptions
from eqcifar.runs import named_arrays

from .shared import Row, parser, row, store

IMAGES = 2
Make = Callable[[Any], torch.nn.Module]


def _cifar_stem(net: Any) -> torch.nn.Module:
    net.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    net.maxpool = torch.nn.Identity()
    return net


def _chenyaofo_vgg(code: Any) -> torch.nn.Module:
    return code.VGG(code.make_layers(code.cfgs["D"], batch_norm=True))


def _timm_vit(timm: Any) -> torch.nn.Module:
    return timm.models.VisionTransformer(
        **{"img_size": 32, "patch_size": 4, "num_classes": 10},
        **{"embed_dim": 192, "depth": 12, "num_heads": 3},
    )


# Whose, its name there, the file or package, what makes it, and what it is here.
NETWORKS: list[tuple[str, str, str, Make, dict[str, str]]] = [
    (
        *("kuangliu", "ResNet18", "pytorch-cifar/models/resnet.py"),
        *(lambda code: code.ResNet18(), {"arch": "resnet18"}),
    ),
    (
        *("kuangliu", "VGG16", "pytorch-cifar/models/vgg.py"),
        *(lambda code: code.VGG("VGG16"), {"arch": "vgg16"}),
    ),
    (
        *("kuangliu", "PreActResNet18", "pytorch-cifar/models/preact_resnet.py"),
        *(lambda code: code.PreActResNet18(), {"arch": "preact18"}),
    ),
    (
        *("chenyaofo", "resnet20"),
        "pytorch-cifar-models/pytorch_cifar_models/resnet.py",
        lambda code: code.CifarResNet(code.BasicBlock, [3, 3, 3]),
        {"arch": "resnet20", "shortcut": "projection"},
    ),
    (
        *("chenyaofo", "vgg16_bn"),
        "pytorch-cifar-models/pytorch_cifar_models/vgg.py",
        *(_chenyaofo_vgg, {"arch": "vgg16-fc3"}),
    ),
    (
        *("akamaster", "resnet20", "pytorch_resnet_cifar10/resnet.py"),
        lambda code: code.resnet20(),
        {"arch": "resnet20", "shortcut": "centred"},
    ),
    (
        *("weiaicunzai", "resnet18", "pytorch-cifar100/models/resnet.py"),
        lambda code: code.ResNet(code.BasicBlock, [2, 2, 2, 2], num_classes=10),
        {"arch": "resnet18"},
    ),
    (
        *("xternalz", "WRN-16-4", "WideResNet-pytorch/wideresnet.py"),
        *(lambda code: code.WideResNet(16, 10, 4), {"arch": "wrn16-4"}),
    ),
    (
        *("torchvision", "resnet18, 3x3 stem", "torchvision.models"),
        lambda models: _cifar_stem(models.resnet18(num_classes=10)),
        {"arch": "resnet18"},
    ),
    (
        *("timm", "resnet18, 3x3 stem", "timm"),
        lambda timm: _cifar_stem(timm.create_model("resnet18", num_classes=10)),
        {"arch": "resnet18"},
    ),
    ("timm", "VisionTransformer, tiny, 4x4", "timm", _timm_vit, {"arch": "vit-tiny"}),
    (
        *("torchvision", "resnet50, 3x3 stem", "torchvision.models"),
        lambda models: _cifar_stem(models.resnet50(num_classes=10)),
        {"arch": "resnet50"},
    ),
]


def load_code(where: str, folder: Path) -> Any:
    """A module of a clone, or an installed package; nothing if it is not there."""
    if not where.endswith(".py"):
        try:
            return importlib.import_module(where)
        except ImportError:
            return None
    path = folder / where
    if not path.exists():
        return None
    name = "code_" + "".join(c if c.isalnum() else "_" for c in where)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def draw(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of noise and labels."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 3, 32, 32)), rng.integers(10, size=count)


def train(net: torch.nn.Module) -> torch.nn.Module:
    """Two steps, so that statistics and weights are not those of the start."""
    step = torch.optim.SGD(net.parameters(), lr=0.05)
    for seed in (1, 2):
        images, labels = map(torch.from_numpy, draw(16, seed))
        F.cross_entropy(net(images), labels).backward()
        step.step()
        step.zero_grad()
    return net


def there(net: Any, images: np.ndarray, labels: np.ndarray, in_training: bool):
    """Logits, and the gradient of the mean cross-entropy by PyTorch's names."""
    net = copy.deepcopy(net).train(in_training)
    for part in net.modules():
        if isinstance(part, torch.nn.Dropout):
            part.eval()
    logits = net(torch.from_numpy(images))
    F.cross_entropy(logits, torch.from_numpy(labels)).backward()
    return logits.detach().numpy(), {k: p.grad for k, p in net.named_parameters()}


def here(model: Any, state: Any, images: Any, labels: Any, in_training: bool):
    """Logits, and the gradient of the mean cross-entropy by the names here."""
    model = model if in_training else eqx.nn.inference_mode(model)
    axes = {"axis_name": "batch", "in_axes": (0, None), "out_axes": (0, None)}

    def loss(model):
        logits, _ = jax.vmap(model, **axes)(images, state)
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
        return -picked.mean(), logits

    # Not compiled as a whole, which takes longer than the few images.
    (_, logits), gradient = eqx.filter_value_and_grad(loss, has_aux=True)(model)
    names = named_arrays(gradient, state)
    return logits, {k: x for k, x in names.items() if "running" not in k}


def apart(ours: list[Any], theirs: list[Any]) -> float:
    """The largest difference, as a part of the largest value."""
    pairs = [(np.asarray(a), np.asarray(b)) for a, b in zip(ours, theirs, strict=True)]
    largest = max(np.abs(b).max() for _, b in pairs)
    return float(max(np.abs(a - b).max() for a, b in pairs) / largest)


def parity(whose: str, make: Make, code: Any, given: dict[str, str]) -> list[Row]:
    """How far a network is from itself in PyTorch, in inference and in training."""
    torch.manual_seed(0)
    net = train(make(code).double())
    options = ImportOptions(dataset="synthetic", **given)  # pyright: ignore
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "net.safetensors")
        save_file(net.state_dict(), path)
        found = exchange.open_foreign(path, options, 10)
    model, state = exchange.fill(found)
    images, labels = draw(IMAGES, 0)
    name = f"{whose} (`{given['arch']}`)"
    rows = [row(f"{name}: tensors", "", len(found.arrays))]
    for in_training in (False, True):
        theirs, gradient = there(net, images, labels, in_training)
        ours, own = here(
            model, state, jnp.asarray(images), jnp.asarray(labels), in_training
        )
        there_too = [gradient[found.match.names[each]] for each in own]
        mode = "training" if in_training else "inference"
        rows += [
            row(f"{name}: logits, {mode}", "", apart([ours], [theirs])),
            row(f"{name}: gradients, {mode}", "", apart([*own.values()], there_too)),
        ]
    return rows


def measured(args: argparse.Namespace) -> list[Row]:
    """Accuracy and tr H of public weights, here and in PyTorch, on the same images."""
    whose, called = args.weights.split("/")
    _, _, where, make, given = next(x for x in NETWORKS if x[:2] == (whose, called))
    options = ImportOptions(dataset=args.dataset, **given)  # pyright: ignore
    if args.mean:
        options = ImportOptions(
            dataset=args.dataset,
            mean=tuple(args.mean),
            std=tuple(args.std),
            **given,  # pyright: ignore
        )
    found = exchange.open_foreign(args.file, options, 10)
    model, state = exchange.fill(found)
    net = make(load_code(where, Path(args.code))).eval()
    prefix = next(k for k in found.arrays if k.endswith("conv1.weight"))
    prefix = prefix.removesuffix("conv1.weight")
    tensors = {
        k.removeprefix(prefix): torch.from_numpy(np.array(x))
        for k, x in {**found.arrays, **found.counters}.items()
    }
    net.load_state_dict(tensors)
    test = data.load(args.dataset).test
    config = options.config()
    normalise = lambda x: data.normalise(x, config.mean, config.std)  # noqa: E731
    ours = training.predict(model, state, test.images, config)
    with torch.inference_mode():
        theirs = np.concatenate(
            [
                net(torch.from_numpy(np.array(normalise(x)))).numpy()
                for x in np.array_split(test.images, max(len(test) // 500, 1))
            ]
        )
    n, name = len(test), f"{whose}'s {called}"
    right = {
        "eqcifar": int((ours.argmax(1) == test.labels).sum()),
        "PyTorch": int((theirs.argmax(1) == test.labels).sum()),
    }
    rows = [
        row(f"{name}, test accuracy: {k}", "", x / n, n=n) for k, x in right.items()
    ]
    few = sharpness.Examples(test.images, test.labels, normalise).sample(args.images)
    network = sharpness.Network(model, state)
    exact = sharpness.hessian_trace(
        network, few, "ce", probes=0, residual_probes=2, key=jax.random.key(0)
    )
    ids = few.order
    images = torch.from_numpy(np.array(normalise(test.images[ids]))).double()
    labels = torch.from_numpy(test.labels[ids].astype(np.int64))
    trace = ggn_trace(net.double(), images, labels)
    rows += [
        row(f"{name}, tr GGN: eqcifar", "", exact.ggn.value, n=args.images),
        row(f"{name}, tr GGN: PyTorch", "", trace, n=args.images),
    ]
    return rows


def ggn_trace(net: Any, images: torch.Tensor, labels: torch.Tensor) -> float:
    """The trace of the GGN of the mean cross-entropy, from each image's Jacobian."""
    params = list(net.parameters())
    total = 0.0
    for image in images:
        logits = net(image[None])[0]
        p = torch.softmax(logits.detach(), 0)
        root = torch.diag(p.sqrt()) - torch.outer(p, p.sqrt())
        for column in root.T:
            grads = torch.autograd.grad(logits, params, column, retain_graph=True)
            total += float(sum((g**2).sum() for g in grads))
    return total / len(images)


def main(argv: list[str]):
    """Compare all that can be had."""
    options = parser(__doc__)
    options.add_argument("--code", default=".", help="the folder of the clones")
    options.add_argument("--only", help="whose, with commas; by default all")
    options.add_argument("--weights", help="such as akamaster/resnet20, with --file")
    options.add_argument("--file", help="a state dict of that network")
    options.add_argument("--dataset", default="cifar10")
    options.add_argument("--data-name", default="CIFAR-10")
    options.add_argument("--mean", type=float, nargs=3)
    options.add_argument("--std", type=float, nargs=3)
    options.add_argument("--images", type=int, default=100, help="of the traces")
    args = options.parse_args(argv)
    if args.weights:
        store("imported_weights", measured(args), data=args.data_name)
        return
    jax.config.update("jax_enable_x64", True)
    torch.set_default_dtype(torch.float64)
    wanted = args.only.split(",") if args.only else {each[0] for each in NETWORKS}
    for whose, called, where, make, given in NETWORKS:
        if whose not in wanted:
            continue
        code = load_code(where, Path(args.code))
        if code is None:
            print(f"{whose}: no {where}, left out", file=sys.stderr)
            continue
        store(
            "imported", parity(f"{whose}, {called}", make, code, given), images=IMAGES
        )

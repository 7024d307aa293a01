"""The architectures in plain PyTorch, written from the papers, as a second opinion.

Parameters are declared in the order of the leaves of the Equinox models, so weights
are carried over by position.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


def conv3x3(a, b, stride=1, bias=False):
    return nn.Conv2d(a, b, 3, stride=stride, padding=1, bias=bias)


class VGG(nn.Module):
    """Configuration as in table 1 of Simonyan & Zisserman: numbers and "M"."""

    def __init__(self, config, hidden):
        super().__init__()
        layers, a = [], 3
        for item in config:
            if item == "M":
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [conv3x3(a, item, bias=True), nn.BatchNorm2d(item), nn.ReLU()]
                a = item
        layers.append(nn.Flatten())
        for size in hidden:
            layers += [nn.Linear(a, size), nn.ReLU()]
            a = size
        self.layers = nn.Sequential(*layers, nn.Linear(a, 10))

    def forward(self, x):
        return self.layers(x)


class Basic(nn.Module):
    def __init__(self, a, b, stride, projection):
        super().__init__()
        self.residual = nn.Sequential(
            conv3x3(a, b, stride), nn.BatchNorm2d(b), nn.ReLU(),
            conv3x3(b, b), nn.BatchNorm2d(b),
        )  # fmt: skip
        self.shortcut = make_shortcut(a, b, stride, projection)

    def forward(self, x):
        return F.relu(self.residual(x) + self.shortcut(x))


class Bottleneck(nn.Module):
    def __init__(self, a, b, stride, projection):
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(a, b, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU(),
            conv3x3(b, b, stride), nn.BatchNorm2d(b), nn.ReLU(),
            nn.Conv2d(b, 4 * b, 1, bias=False), nn.BatchNorm2d(4 * b),
        )  # fmt: skip
        self.shortcut = make_shortcut(a, 4 * b, stride, projection)

    def forward(self, x):
        return F.relu(self.residual(x) + self.shortcut(x))


class ZeroPad(nn.Module):
    def __init__(self, channels, stride):
        super().__init__()
        self.channels, self.stride = channels, stride

    def forward(self, x):
        x = F.avg_pool2d(x, 1, self.stride)
        zeros = x.new_zeros(len(x), self.channels - x.shape[1], *x.shape[2:])
        return torch.cat([x, zeros], dim=1)


def make_shortcut(a, b, stride, projection):
    if a == b and stride == 1:
        return nn.Identity()
    if projection:
        return nn.Sequential(
            nn.Conv2d(a, b, 1, stride=stride, bias=False), nn.BatchNorm2d(b)
        )
    return ZeroPad(b, stride)


class ResNet(nn.Module):
    def __init__(self, block, expansion, projection, depths, channels):
        super().__init__()
        a = channels[0]
        layers = [conv3x3(3, a), nn.BatchNorm2d(a), nn.ReLU()]
        for stage, (depth, b) in enumerate(zip(depths, channels, strict=True)):
            for i in range(depth):
                stride = 2 if stage > 0 and i == 0 else 1
                layers.append(block(a, b, stride, projection))
                a = expansion * b
        self.layers = nn.Sequential(*layers)
        self.classifier = nn.Linear(a, 10)

    def forward(self, x):
        return self.classifier(self.layers(x).mean((2, 3)))


class WideBlock(nn.Module):
    def __init__(self, a, b, stride):
        super().__init__()
        self.first = nn.Sequential(nn.BatchNorm2d(a), nn.ReLU())
        self.residual = nn.Sequential(
            conv3x3(a, b, stride), nn.BatchNorm2d(b), nn.ReLU(), conv3x3(b, b)
        )
        self.same = a == b and stride == 1
        if not self.same:
            self.shortcut = nn.Conv2d(a, b, 1, stride=stride, bias=False)

    def forward(self, x):
        activated = self.first(x)
        shortcut = x if self.same else self.shortcut(activated)
        return shortcut + self.residual(activated)


class WideResNet(nn.Module):
    def __init__(self, stem, channels, blocks):
        super().__init__()
        a = stem
        layers: list[nn.Module] = [conv3x3(3, a)]
        for stage, b in enumerate(channels):
            for i in range(blocks):
                layers.append(WideBlock(a, b, 2 if stage > 0 and i == 0 else 1))
                a = b
        self.layers = nn.Sequential(*layers, nn.BatchNorm2d(a), nn.ReLU())
        self.classifier = nn.Linear(a, 10)

    def forward(self, x):
        return self.classifier(self.layers(x).mean((2, 3)))


class AirbenchGroup(nn.Module):
    def __init__(self, a, b, depth):
        super().__init__()
        self.first = nn.Sequential(
            conv3x3(a, b), nn.MaxPool2d(2), nn.BatchNorm2d(b, momentum=0.4), nn.GELU()
        )
        branch: list[nn.Module] = [conv3x3(b, b), nn.BatchNorm2d(b, momentum=0.4)]
        if depth == 3:
            branch += [nn.GELU(), conv3x3(b, b), nn.BatchNorm2d(b, momentum=0.4)]
        self.branch = nn.Sequential(*branch)
        self.residual = depth == 3

    def forward(self, x):
        x = self.first(x)
        return F.gelu(self.branch(x) + x if self.residual else self.branch(x))


class Airbench(nn.Module):
    def __init__(self, channels, depth):
        super().__init__()
        a = 24
        layers: list[nn.Module] = [nn.Conv2d(3, a, 2), nn.GELU()]
        for b in channels:
            layers.append(AirbenchGroup(a, b, depth))
            a = b
        layers += [nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(a, 10, bias=False)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return self.layers(x) / 9


# The cases of `reference.py`.
MODELS = {
    "vgg": lambda: VGG(
        [4, 4, "M", 8, 8, "M", 16, 16, "M", 32, 32, "M", 32, 32, "M"], [32, 32, 32]
    ),
    "vgg11": lambda: VGG([4, "M", 8, "M", 16, 16, "M", 32, 32, "M", 32, 32, "M"], []),
    "resnet20": lambda: ResNet(Basic, 1, False, [3, 3, 3], [4, 8, 16]),
    "basic": lambda: ResNet(Basic, 1, True, [2, 1], [4, 8]),
    "bottleneck": lambda: ResNet(Bottleneck, 4, True, [2, 1], [4, 8]),
    "wrn16-2": lambda: WideResNet(4, [8, 16, 32], 2),
    "airbench94": lambda: Airbench([4, 16, 16], 2),
    "airbench96": lambda: Airbench([8, 24, 32], 3),
}


def evaluate(case, weights, statistics, images, labels):
    """What `reference.evaluate` does, by PyTorch: a dictionary of arrays."""
    model = MODELS[case]().double()
    sizes = {}
    for norm in norms(model):
        norm.register_forward_hook(
            lambda norm, args, _: sizes.update({norm: args[0][:, 0].numel()})
        )
    with torch.no_grad():
        for parameter, weight in zip(model.parameters(), weights, strict=True):
            parameter.copy_(torch.from_numpy(weight).reshape(parameter.shape))
    results = {}
    for mode in ["train", "inference"]:
        model.train(mode == "train")
        before = iter(statistics)
        for norm in norms(model):
            norm.running_mean.copy_(torch.from_numpy(next(before)))
            norm.running_var.copy_(torch.from_numpy(next(before)))
        model.zero_grad()
        logits = model(torch.from_numpy(images))
        F.cross_entropy(logits, torch.from_numpy(labels).long()).backward()
        results[f"{mode}_logits"] = logits.detach().numpy()
        results[f"{mode}_gradients"] = [p.grad.numpy() for p in model.parameters()]
        if mode == "train":
            after = []
            for norm, old in zip(norms(model), statistics[1::2], strict=True):
                # PyTorch keeps the unbiased variance, n / (n - 1) times ours.
                n = sizes[norm]
                kept = (1 - norm.momentum) * old
                new_share = (norm.running_var.numpy() - kept) * (n - 1) / n
                after += [norm.running_mean.numpy().copy(), kept + new_share]
            results["statistics"] = after
    return results


def norms(model) -> list[Any]:
    return [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]

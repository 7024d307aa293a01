"""PyTorch networks with the names that public repositories give their layers.

Written from the names in published state dicts and the papers' formulas. Sizes are
smaller than there; names and formulas do not depend on them.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn


def conv(a, b, size=3, stride=1, bias=False):
    return nn.Conv2d(a, b, size, stride, size // 2, bias=bias)


class Residual(nn.Module):
    """A block of `conv<i>` and `bn<i>`; the shortcut has the name that it is given."""

    def __init__(self, a, b, stride, shortcut, option, deep, act, norm):
        super().__init__()
        out, sizes = (4 * b, (1, 3, 1)) if deep else (b, (3, 3))
        ends = [a, *[b] * (len(sizes) - 1), out]
        self.count, self.where = len(sizes), shortcut
        for i, size in enumerate(sizes):
            step = stride if size == 3 and (deep or i == 0) else 1
            bias = norm is nn.Identity
            setattr(self, f"conv{i + 1}", conv(ends[i], ends[i + 1], size, step, bias))
            setattr(self, f"bn{i + 1}", norm(ends[i + 1]))
        self.pad = 0
        if a == out and stride == 1:
            setattr(self, shortcut, nn.Sequential())
        elif option == "projection":
            setattr(
                self,
                shortcut,
                nn.Sequential(conv(a, out, 1, stride, norm is nn.Identity), norm(out)),
            )
        else:
            setattr(self, shortcut, nn.Sequential())
            self.pad = (out - a) // 2
        self.stride, self.act = stride, act

    def forward(self, x):
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = self.act(y) if i < self.count else y
        x = getattr(self, self.where)(x)
        if self.pad:
            s = self.stride
            x = F.pad(x[:, :, ::s, ::s], (0, 0, 0, 0, self.pad, self.pad))
        return self.act(x + y)


class Stages(nn.Module):
    """`conv1`, `bn1`, `layer<s>` of blocks and a classifier of the name it is given."""

    def __init__(
        self,
        depths,
        channels,
        shortcut,
        last,
        option="projection",
        deep=False,
        classes=10,
        act=F.relu,
        norm=nn.BatchNorm2d,
    ):
        super().__init__()
        a = channels[0]
        self.conv1 = conv(3, a, bias=norm is nn.Identity)
        self.bn1, self.act = norm(a), act
        self.names, self.last = [], last
        for stage, (depth, b) in enumerate(zip(depths, channels, strict=True)):
            blocks = []
            for i in range(depth):
                stride = 2 if stage and not i else 1
                blocks.append(Residual(a, b, stride, shortcut, option, deep, act, norm))
                a = 4 * b if deep else b
            self.names.append(f"layer{stage + 1}")
            setattr(self, self.names[-1], nn.Sequential(*blocks))
        setattr(self, last, nn.Linear(a, classes))

    def forward(self, x):
        x = self.act(self.bn1(self.conv1(x)))
        for name in self.names:
            x = getattr(self, name)(x)
        return getattr(self, self.last)(x.mean((2, 3)))


class FunctionBlock(nn.Module):
    """A block of `residual_function` and `shortcut`, as in weiaicunzai's."""

    def __init__(self, a, b, stride):
        super().__init__()
        self.residual_function = nn.Sequential(
            conv(a, b, 3, stride), nn.BatchNorm2d(b), nn.ReLU(),
            conv(b, b), nn.BatchNorm2d(b),
        )  # fmt: skip
        self.shortcut = nn.Sequential()
        if stride != 1 or a != b:
            self.shortcut = nn.Sequential(conv(a, b, 1, stride), nn.BatchNorm2d(b))

    def forward(self, x):
        return F.relu(self.residual_function(x) + self.shortcut(x))


class FunctionStages(nn.Module):
    """`conv1.0`, `conv<s>_x` and `fc`, as in weiaicunzai's."""

    def __init__(self, depths, channels, classes=10):
        super().__init__()
        a = channels[0]
        self.conv1 = nn.Sequential(conv(3, a), nn.BatchNorm2d(a), nn.ReLU())
        self.names = []
        for stage, (depth, b) in enumerate(zip(depths, channels, strict=True)):
            blocks = []
            for i in range(depth):
                blocks.append(FunctionBlock(a, b, 2 if stage and not i else 1))
                a = b
            self.names.append(f"conv{stage + 2}_x")
            setattr(self, self.names[-1], nn.Sequential(*blocks))
        self.fc = nn.Linear(a, classes)

    def forward(self, x):
        x = self.conv1(x)
        for name in self.names:
            x = getattr(self, name)(x)
        return self.fc(x.mean((2, 3)))


class PreActivation(nn.Module):
    """A block that begins with BatchNorm; the shortcut is of its first activation."""

    def __init__(self, a, b, stride, shortcut, in_sequence):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(a), conv(a, b, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(b), conv(b, b)
        self.where = None
        if a != b or stride != 1:
            self.where, project = shortcut, conv(a, b, 1, stride)
            setattr(self, shortcut, nn.Sequential(project) if in_sequence else project)

    def forward(self, x):
        y = F.relu(self.bn1(x))
        x = getattr(self, self.where)(y) if self.where else x
        return x + self.conv2(F.relu(self.bn2(self.conv1(y))))


class Layer(nn.Module):
    def __init__(self, *blocks):
        super().__init__()
        self.layer = nn.Sequential(*blocks)

    def forward(self, x):
        return self.layer(x)


class Wide(nn.Module):
    """`conv1`, `block<s>.layer`, `bn1` and `fc`, as in xternalz's."""

    def __init__(self, depth, stem, channels, classes=10):
        super().__init__()
        self.conv1, a, self.names = conv(3, stem), stem, []
        for stage, b in enumerate(channels):
            blocks = []
            for i in range(depth):
                stride = 2 if stage and not i else 1
                blocks.append(PreActivation(a, b, stride, "convShortcut", False))
                a = b
            self.names.append(f"block{stage + 1}")
            setattr(self, self.names[-1], Layer(*blocks))
        self.bn1, self.fc = nn.BatchNorm2d(a), nn.Linear(a, classes)

    def forward(self, x):
        x = self.conv1(x)
        for name in self.names:
            x = getattr(self, name)(x)
        return self.fc(F.relu(self.bn1(x)).mean((2, 3)))


class VGG(nn.Module):
    """`features` and `classifier`, with layers between or without."""

    def __init__(self, depths, channels, hidden=(), classes=10):
        super().__init__()
        layers, a = [], 3
        for depth, b in zip(depths, channels, strict=True):
            for _ in range(depth):
                layers += [conv(a, b, bias=True), nn.BatchNorm2d(b), nn.ReLU()]
                a = b
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        linears = []
        for b in hidden:
            linears += [nn.Linear(a, b), nn.ReLU(), nn.Dropout(0.0)]
            a = b
        last = nn.Linear(a, classes)
        self.classifier = nn.Sequential(*linears, last) if hidden else last

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


class Preact(nn.Module):
    """`conv1`, `layer<s>` and `linear`, as kuangliu's PreActResNet."""

    def __init__(self, depths, channels, classes=10):
        super().__init__()
        a = channels[0]
        self.conv1, self.names = conv(3, a), []
        for stage, (depth, b) in enumerate(zip(depths, channels, strict=True)):
            blocks = []
            for i in range(depth):
                stride = 2 if stage and not i else 1
                blocks.append(PreActivation(a, b, stride, "shortcut", True))
                a = b
            self.names.append(f"layer{stage + 1}")
            setattr(self, self.names[-1], nn.Sequential(*blocks))
        self.linear = nn.Linear(a, classes)

    def forward(self, x):
        x = self.conv1(x)
        for name in self.names:
            x = getattr(self, name)(x)
        return self.linear(x.mean((2, 3)))


class Attention(nn.Module):
    def __init__(self, size, heads):
        super().__init__()
        self.qkv, self.proj = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.heads = heads

    def forward(self, x):
        parts = [
            each.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for each in self.qkv(x).chunk(3, -1)
        ]
        y = F.scaled_dot_product_attention(*parts)
        return self.proj(y.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(size, 4 * size), nn.Linear(4 * size, size)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Encoder(nn.Module):
    def __init__(self, size, heads):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(size, eps=1e-6), Attention(size, heads)
        self.norm2, self.mlp = nn.LayerNorm(size, eps=1e-6), Mlp(size)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Patches(nn.Module):
    def __init__(self, size, patch):
        super().__init__()
        self.proj = nn.Conv2d(3, size, patch, patch)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class Vit(nn.Module):
    """The names of timm's VisionTransformer."""

    def __init__(self, size, depth, heads, patch, tokens, classes=10):
        super().__init__()
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, size))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, tokens, size))
        self.patch_embed = Patches(size, patch)
        self.blocks = nn.Sequential(*(Encoder(size, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(size, eps=1e-6), nn.Linear(size, classes)

    def forward(self, x):
        token = self.cls_token.expand(len(x), -1, -1)
        x = torch.cat([token, self.patch_embed(x)], 1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])


def _groups(size):
    return nn.GroupNorm(math.gcd(size, 32), size)


def _layer(size):
    return nn.GroupNorm(1, size)


def _small(act, norm):
    return Stages((1, 1, 1), _THREE, "downsample", "fc", act=act, norm=norm)


def _channels(*full, width):
    return [round(width * each) for each in full]


_FOUR = _channels(64, 128, 256, 512, width=1 / 16)
_FIVE = _channels(64, 128, 256, 512, 512, width=1 / 16)
_THREE = _channels(16, 32, 64, width=1 / 2)

_EIGHT = {"arch": "resnet8", "width": 1 / 2, "shortcut": "projection"}

# By the source: how to import it, and such a network.
NETWORKS = {
    "kuangliu resnet18": (
        {"arch": "resnet18", "width": 1 / 16},
        lambda: Stages((2, 2, 2, 2), _FOUR, "shortcut", "linear"),
    ),
    "torchvision resnet50": (
        {"arch": "resnet50", "width": 1 / 16},
        lambda: Stages((3, 4, 6, 3), _FOUR, "downsample", "fc", deep=True),
    ),
    "chenyaofo resnet8": (
        {"arch": "resnet8", "width": 1 / 2, "shortcut": "projection"},
        lambda: Stages((1, 1, 1), _THREE, "downsample", "fc"),
    ),
    "akamaster resnet8": (
        {"arch": "resnet8", "width": 1 / 2, "shortcut": "centred"},
        lambda: Stages((1, 1, 1), _THREE, "shortcut", "linear", "padding"),
    ),
    "weiaicunzai resnet18": (
        {"arch": "resnet18", "width": 1 / 16},
        lambda: FunctionStages((2, 2, 2, 2), _FOUR),
    ),
    "xternalz wrn10-4": (
        {"arch": "wrn10-4", "width": 1 / 8},
        lambda: Wide(1, 2, _channels(64, 128, 256, width=1 / 8)),
    ),
    "kuangliu vgg16": (
        {"arch": "vgg16", "width": 1 / 16},
        lambda: VGG((2, 2, 3, 3, 3), _FIVE),
    ),
    "chenyaofo vgg11": (
        {"arch": "vgg11-fc3", "width": 1 / 16},
        lambda: VGG((1, 1, 2, 2, 2), _FIVE, (32, 32)),
    ),
    "kuangliu preact18": (
        {"arch": "preact18", "width": 1 / 16},
        lambda: Preact((2, 2, 2, 2), _FOUR),
    ),
    "sequential mlp": (
        {"arch": "mlp", "width": 1 / 4, "activation": "tanh"},
        lambda: nn.Sequential(
            nn.Flatten(),
            *(nn.Linear(3072, 75), nn.Tanh(), nn.Linear(75, 25), nn.Tanh()),
            nn.Linear(25, 10),
        ),
    ),
    "timm vit": (
        {"arch": "vit-tiny", "width": 1 / 16},
        lambda: Vit(12, 12, 3, 4, 65),
    ),
    "resnet8 gelu group": (
        {**_EIGHT, "activation": "gelu", "norm": "group"},
        lambda: _small(F.gelu, _groups),
    ),
    "resnet8 silu layer": (
        {**_EIGHT, "activation": "silu", "norm": "layer"},
        lambda: _small(F.silu, _layer),
    ),
    "resnet8 elu none": (
        {**_EIGHT, "activation": "elu", "norm": "none"},
        lambda: _small(F.elu, nn.Identity),
    ),
    "resnet8 tanh batch": (
        {**_EIGHT, "activation": "tanh", "norm": "batch"},
        lambda: _small(torch.tanh, nn.BatchNorm2d),
    ),
}


def trained(make, seed=0, dtype=torch.float32):
    """Such a network after two steps, so that statistics are not those of the start."""
    torch.manual_seed(seed)
    net = make()
    step = torch.optim.SGD(net.parameters(), lr=0.05)
    for _ in range(2):
        images = torch.randn(16, 3, 32, 32)
        F.cross_entropy(net(images), torch.randint(10, (16,))).backward()
        step.step()
        step.zero_grad()
    return net.to(dtype)

"""The recipe of `TrainConfig` in PyTorch, as a peer to compare and to race with."""

import dataclasses
import math

import torch
import torch.nn.functional as F

from eqcifar.config import TrainConfig
from tests import torch_models

Basic = torch_models.Basic
VGG11 = [64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"]
VGG13 = [64, 64, "M", 128, 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"]

ARCHITECTURES = {
    "vgg": lambda: torch_models.VGG(VGG13, [512, 512, 512]),
    "vgg11": lambda: torch_models.VGG(VGG11, []),
    "resnet8": lambda: torch_models.ResNet(Basic, 1, False, [1, 1, 1], [16, 32, 64]),
    "resnet20": lambda: torch_models.ResNet(Basic, 1, False, [3, 3, 3], [16, 32, 64]),
    "resnet18": lambda: torch_models.ResNet(
        Basic, 1, True, [2, 2, 2, 2], [64, 128, 256, 512]
    ),
    "wrn16-4": lambda: torch_models.WideResNet(16, [64, 128, 256], 2),
    "wrn28-10": lambda: torch_models.WideResNet(16, [160, 320, 640], 4),
}


@dataclasses.dataclass
class Recipe:
    """Takes training steps on batches that are on the device already."""

    model: torch.nn.Module
    config: TrainConfig
    total_steps: int
    autocast: bool = False

    def __post_init__(self):
        self.parameters = list(self.model.parameters())
        self.optimiser = torch.optim.SGD(
            self.parameters, lr=0.0, momentum=self.config.momentum, nesterov=True
        )
        self.count = 0

    def learning_rate(self) -> float:
        warmup = int(self.config.warmup * self.total_steps)
        if self.count < warmup:
            return self.config.lr * self.count / warmup
        done = (self.count - warmup) / (self.total_steps - warmup)
        return self.config.lr * 0.5 * (1 + math.cos(math.pi * done))

    def loss(self, inputs, targets):
        device = inputs.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.autocast):
            logits = self.model(inputs)
        logits = logits.float()
        if self.config.loss == "ce":
            return F.cross_entropy(logits, targets)
        return 0.5 * ((logits - targets) ** 2).sum(1).mean()

    def step(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Update the parameters; the loss before that, still on the device."""
        self.optimiser.param_groups[0]["lr"] = self.learning_rate()
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.loss(inputs, targets)
        loss.backward()
        grads = [p.grad for p in self.parameters]
        torch._foreach_add_(grads, self.parameters, alpha=self.config.weight_decay)
        if self.config.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm)
        self.optimiser.step()
        self.count += 1
        return loss.detach()


def normalise(images: torch.Tensor, config: TrainConfig) -> torch.Tensor:
    """Uint8 NHWC to float NCHW in channels_last."""
    mean, std = (
        images.new_tensor(x, dtype=torch.float32) for x in (config.mean, config.std)
    )
    return ((images / 255 - mean) / std).permute(0, 3, 1, 2)


def augment(images: torch.Tensor) -> torch.Tensor:
    """Reflect-pad by 4, crop and flip, each image on its own: uint8 NHWC to the same.

    By gathers of bytes, as here; padding and cropping floats takes longer.
    """
    n, height, width, _ = images.shape
    device = images.device
    shift = torch.randint(-4, 5, (2, n, 1), device=device)
    rows = shift[0] + torch.arange(height, device=device)
    columns = torch.arange(width, device=device).expand(n, width)
    flip = torch.rand(n, 1, device=device) < 0.5
    columns = shift[1] + torch.where(flip, columns.flip(1), columns)
    rows, columns = _reflect(rows, height), _reflect(columns, width)
    index = torch.arange(n, device=device)[:, None, None]
    return images[index, rows[:, :, None], columns[:, None, :]]


def _reflect(index: torch.Tensor, size: int) -> torch.Tensor:
    return (size - 1) - ((size - 1) - index.abs()).abs()


def batch(
    images: torch.Tensor,
    labels: torch.Tensor,
    chosen: torch.Tensor,
    config: TrainConfig,
    memory_format: torch.memory_format = torch.channels_last,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets of the examples chosen, all on the device."""
    pixels = images[chosen]
    if config.augment:
        pixels = augment(pixels)
    inputs = normalise(pixels, config).contiguous(memory_format=memory_format)
    targets = labels[chosen]
    if config.loss == "mse":
        targets = F.one_hot(targets, 10).float()
    return inputs, targets


@torch.no_grad()
def predict(
    model,
    images: torch.Tensor,
    config: TrainConfig,
    autocast: bool,
    memory_format: torch.memory_format = torch.channels_last,
) -> torch.Tensor:
    """The logits of all images, 1000 at a time."""
    model.eval()
    parts = []
    for part in images.split(1000):
        inputs = normalise(part, config).contiguous(memory_format=memory_format)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=autocast):
            parts.append(model(inputs).float())
    return torch.cat(parts)

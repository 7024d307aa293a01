"""The convolutions of the peer's networks, ready to be timed as `Convolutions` are."""

import time
from functools import partial
from typing import Any

import numpy as np
import torch

from ..speed import Convolution
from .torch_recipe import ARCHITECTURES

LAST = torch.channels_last


class TorchConvolutions:
    """PyTorch's convolution of a batch in channels_last, and its derivatives."""

    def __init__(self, batch: int):
        self.batch = batch
        self.ready: dict[str, Any] = {}

    def shapes(self, arch: str) -> list[Convolution]:
        """Of each convolution of a network, in their order."""
        found: list[Convolution] = []

        def see(layer, inputs, _):
            found.append(
                Convolution(
                    layer.in_channels,
                    layer.out_channels,
                    inputs[0].shape[-1],
                    layer.kernel_size[0],
                    layer.stride[0],
                )
            )

        model = ARCHITECTURES[arch]().eval()
        for layer in model.modules():
            if isinstance(layer, torch.nn.Conv2d):
                layer.register_forward_hook(see)
        with torch.no_grad():
            model(torch.zeros(1, 3, 32, 32))
        return found

    def prepare(self, shape: Convolution) -> dict[str, np.ndarray]:
        """Result and gradients, channels last and the weights PyTorch's way."""
        images, weights, gradient = map(torch.from_numpy, shape.arrays(self.batch))
        # Channels last in memory already: only called by the names of PyTorch.
        x, dy = images.permute(0, 3, 1, 2), gradient.permute(0, 3, 1, 2)
        weight = weights.contiguous(memory_format=LAST)
        padding = shape.kernel // 2
        assert x.is_contiguous(memory_format=LAST)

        def backward(wanted: int):
            mask = [wanted == 0, wanted == 1, False]
            return torch.ops.aten.convolution_backward(
                dy,
                x,
                weight,
                None,
                [shape.stride] * 2,
                [padding] * 2,
                [1, 1],
                False,
                [0, 0],
                1,
                mask,
            )[wanted]

        self.ready = {
            "forward": partial(
                torch.nn.functional.conv2d,
                x,
                weight,
                stride=shape.stride,
                padding=padding,
            ),
            "images": partial(backward, 0),
            "weights": partial(backward, 1),
        }
        found = {name: function() for name, function in self.ready.items()}
        return {
            name: (y if name == "weights" else y.permute(0, 2, 3, 1)).numpy()
            for name, y in found.items()
        }

    def seconds(self, kind: str, calls: int) -> float:
        """How long so many calls of what was prepared last take."""
        function = self.ready[kind]
        begin = time.perf_counter()
        with torch.no_grad():
            for _ in range(calls):
                function()
        return time.perf_counter() - begin

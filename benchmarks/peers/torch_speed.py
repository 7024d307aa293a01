"""The peer's training step and evaluation, ready to be timed as `Subject` is."""

import time

import numpy as np
import torch

from ..sides import Case
from . import torch_recipe


class TorchSubject:
    """A training loop as `torch_recipe.train` has it.

    `form` is `channels_last` or `nchw`, both eager, or `compile`: `torch.compile` of
    the network, in channels_last. With "bf16", under autocast.
    """

    def __init__(self, case: Case, form: str):
        self.case, self.form = case, form
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.backends.cudnn.benchmark = True
        nchw = form == "nchw"
        self.format = torch.contiguous_format if nchw else torch.channels_last
        images, labels = case.pixels()
        self.images = torch.from_numpy(images).to(self.device)
        self.labels = torch.from_numpy(labels).long().to(self.device)
        self.model = torch_recipe.ARCHITECTURES[case.arch]().to(
            self.device, memory_format=self.format
        )
        self.forward = torch.compile(self.model) if form == "compile" else self.model
        self.recipe = self._recipe(case.config())

    def set_weights(self, weights: list[np.ndarray]):
        """Take the parameters of the other side, by position."""
        with torch.no_grad():
            for parameter, weight in zip(self.model.parameters(), weights, strict=True):
                parameter.copy_(torch.from_numpy(weight).reshape(parameter.shape))

    def first_step(self) -> tuple[float, list[np.ndarray]]:
        """The loss of the first batch, and the parameters after a step on it."""
        before = [p.detach().clone() for p in self.model.parameters()]
        recipe = self._recipe(self.case.check_config())
        loss = self._step(recipe, torch.arange(self.case.batch, device=self.device))
        with torch.no_grad():
            after = [p.float().cpu().numpy().copy() for p in self.model.parameters()]
            for parameter, old in zip(self.model.parameters(), before, strict=True):
                parameter.copy_(old)
        return float(loss), after

    def train(self, calls: int) -> float:
        """Seconds that so many calls take, of `case.steps` steps each."""
        self.model.train()
        self._wait()
        begin = time.perf_counter()
        for _ in range(calls):
            order = torch.randperm(self.case.images, device=self.device)
            for chosen in order.split(self.case.batch)[: self.case.steps]:
                self._step(self.recipe, chosen)
        self._wait()
        return time.perf_counter() - begin

    def predict(self, calls: int) -> float:
        """Seconds to evaluate `case.evaluated` images so many times."""
        images = self.images[: self.case.evaluated]
        self._wait()
        begin = time.perf_counter()
        for _ in range(calls):
            config, autocast = self.recipe.config, self.recipe.autocast
            torch_recipe.predict(
                self.forward, images, config, autocast, self.format
            ).cpu()
        return time.perf_counter() - begin

    def _recipe(self, config) -> torch_recipe.Recipe:
        total = config.epochs * (self.case.images // config.batch_size)
        autocast = config.precision == "bf16"
        return torch_recipe.Recipe(self.forward, config, total, autocast)

    def _step(self, recipe, chosen: torch.Tensor) -> torch.Tensor:
        return recipe.step(
            *torch_recipe.batch(
                self.images, self.labels, chosen, recipe.config, self.format
            )
        )

    def _wait(self):
        if self.device == "cuda":
            torch.cuda.synchronize()

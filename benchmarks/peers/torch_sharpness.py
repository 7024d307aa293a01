"""PyHessian and curvlinops on copied weights."""

import math
import warnings

import numpy as np
import pyhessian
import pyhessian.utils
import torch
import torch.nn.functional as F
from curvlinops import GGNLinearOperator, HessianLinearOperator
from curvlinops.trace.hutchinson import hutchinson_trace
from scipy.sparse.linalg import eigsh
from torch import nn

from tests import torch_models

warnings.filterwarnings("ignore", message="Using backward.*create_graph")

VGG11 = [16, "M", 32, "M", 64, 64, "M", 128, 128, "M", 128, 128, "M"]


def vgg11():
    """The network that `eqcifar train --arch vgg11 --width 0.25` makes."""
    return torch_models.VGG(VGG11, [])


def tiny_resnet():
    """Few enough parameters for a dense Hessian."""
    return torch_models.ResNet(torch_models.Basic, 1, False, [1, 1], [2, 4])


def train(model, images, labels, steps):
    """A few steps of SGD, so that the curvature is that of a trained network."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(steps):
        chosen = np.arange(step * 64, step * 64 + 64) % len(labels)
        optimiser.zero_grad()
        loss = F.cross_entropy(model(images[chosen]), labels[chosen])
        loss.backward()
        optimiser.step()
    return model.eval()


def export(model):
    """Parameters and running statistics in the order of the Equinox leaves."""
    weights = [p.detach().numpy() for p in model.parameters()]
    statistics = []
    for norm in torch_models.norms(model):
        statistics += [norm.running_mean.numpy(), norm.running_var.numpy()]
    return weights, statistics


def fill(model, weights, statistics):
    """Copy weights and running statistics in the order of the Equinox leaves."""
    with torch.no_grad():
        for parameter, weight in zip(model.parameters(), weights, strict=True):
            parameter.copy_(torch.tensor(weight).reshape(parameter.shape))
    before = iter(statistics)
    for norm in torch_models.norms(model):
        norm.running_mean.copy_(torch.tensor(next(before)))
        norm.running_var.copy_(torch.tensor(next(before)))
    return model.eval()


class HalfSquared(nn.Module):
    """0.5 ||f - onehot||^2, the mean over examples."""

    def forward(self, logits, labels):
        target = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
        return 0.5 * ((logits - target) ** 2).sum(1).mean()


class Peer:
    """Both packages on the same model, batches and loss.

    curvlinops insists on torch's `MSELoss`, which is 2/C of ours: `scale` mends it.
    """

    def __init__(self, model, batches, loss):
        self.model, self.batches = model, batches
        self.parameters = list(model.parameters())
        self.criterion = nn.CrossEntropyLoss() if loss == "ce" else HalfSquared()
        data, criterion, self.scale = batches, self.criterion, 1.0
        if loss == "mse":
            classes = model(batches[0][0]).shape[1]
            data = [(x, F.one_hot(y, classes).to(x.dtype)) for x, y in batches]
            criterion, self.scale = nn.MSELoss(), classes / 2
        make = {"hess": HessianLinearOperator, "ggn": GGNLinearOperator}
        self.operators = {
            kind: operator(
                model, criterion, self.parameters, data, check_deterministic=False
            )
            for kind, operator in make.items()
        }

    def product(self, kind, vector):
        """Matrix times vector by curvlinops."""
        return self.scale * (self.operators[kind] @ torch.from_numpy(vector)).numpy()

    def trace(self, kind, block=64):
        """The trace by curvlinops and the unit vectors, exactly."""
        size, total = self.operators[kind].shape[1], 0.0
        for start in range(0, size, block):
            eye = torch.zeros(size, min(block, size - start), dtype=torch.float64)
            eye[start : start + eye.shape[1]] = torch.eye(eye.shape[1]).double()
            columns = self.operators[kind] @ eye
            total += float((columns * eye).sum())
        return self.scale * total

    def largest(self, kind, tolerance):
        """The largest eigenvalue by SciPy on the operator of curvlinops."""
        linear = self.operators[kind].to_scipy()
        return self.scale * float(eigsh(linear, k=1, which="LA", tol=tolerance)[0][0])

    def hutchinson(self, kind, probes):
        """The estimator of curvlinops, as it is."""
        return self.scale * float(hutchinson_trace(self.operators[kind], probes))

    def hutch_plus_plus(self, kind, columns):
        """The steps of `hutchpp_trace`, keeping the spread that it averages away.

        Returns the trace, and the standard deviation of one term of the last sum.
        """
        matrix = self.operators[kind]
        signs = torch.randint(0, 2, (2, matrix.shape[1], columns)).float() * 2 - 1
        q, _ = torch.linalg.qr(matrix @ signs[0])
        inside = float((q * (matrix @ q)).sum())
        rest = signs[1] - q @ (q.T @ signs[1])
        terms = (rest * (matrix @ rest)).sum(0)
        value = self.scale * (inside + float(terms.mean()))
        return value, self.scale * float(terms.std())

    def pyhessian(self):
        """PyHessian over all batches (over the one batch, if there is one)."""
        if len(self.batches) == 1:
            source = {"data": self.batches[0]}
        else:
            source = {"dataloader": self.batches}
        return pyhessian.hessian(self.model, self.criterion, cuda=False, **source)

    def signs(self, probes, seed):
        """The signs that PyHessian draws from a seed."""
        torch.manual_seed(seed)
        rows = []
        for _ in range(probes):
            draw = [torch.randint_like(p, high=2) * 2 - 1 for p in self.parameters]
            rows.append(torch.cat([d.detach().ravel() for d in draw]).numpy())
        return rows

    def pyhessian_traces(self, probes, seed):
        """Return v'Hv of each probe; never stops early."""
        found = self.pyhessian()
        torch.manual_seed(seed)
        return found.trace(maxIter=probes, tol=-math.inf)

    def pyhessian_largest(self, steps):
        """The largest eigenvalue in modulus by PyHessian's power iteration."""
        torch.manual_seed(0)
        return self.pyhessian().eigenvalues(maxIter=steps, tol=1e-13)[0][0]

    def gradient(self):
        """The gradient of the mean loss over all batches."""
        self.model.zero_grad()
        for images, labels in self.batches:
            self.criterion(self.model(images), labels).backward()

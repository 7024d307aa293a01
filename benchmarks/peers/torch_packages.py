"""PyHessian, curvlinops and hessian-eigenthings on one network, each as it is used.

One object is one package in a process of its own, see `benchmarks.sides.Remote`.
"""

import math
import resource
import sys
import time
from importlib.metadata import version

import hessian_eigenthings as eigenthings
import numpy as np
import pyhessian
import torch
import torch.nn.functional as F
from curvlinops import GGNLinearOperator, HessianLinearOperator
from curvlinops.papyan2020traces.spectrum import lanczos_approximate_spectrum
from curvlinops.trace.hutchinson import hutchinson_trace
from scipy.sparse.linalg import eigsh
from torch import nn

from .torch_recipe import ARCHITECTURES
from .torch_sharpness import HalfSquared, fill

PLAIN_PRODUCT = sys.modules["pyhessian.hessian"].hessian_vector_product
VERSIONS = ("torch", "curvlinops-for-pytorch", "pyhessian", "hessian-eigenthings")


class Package:
    """What all have in common: the network, its images, and a count of products."""

    def __init__(self, arch, weights, statistics, images, labels):
        torch.manual_seed(0)
        self.model = fill(ARCHITECTURES[arch](), weights, statistics)
        self.batch = torch.from_numpy(images), torch.from_numpy(labels).long()
        self.parameters = list(self.model.parameters())
        self.size = sum(p.numel() for p in self.parameters)
        self.products, self.timed = 0, {}

    def versions(self):
        """Of all that is compared here."""
        return {name: version(name) for name in VERSIONS}

    def memory(self):
        """The most that the process has held so far, in GB."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6

    def measure(self, what, *arguments):
        """What a method returns, its seconds and its products."""
        self.products, begin = 0, time.perf_counter()
        found = getattr(self, what)(*arguments)
        return found, time.perf_counter() - begin, self.products

    def loss(self, name):
        return nn.CrossEntropyLoss() if name == "ce" else HalfSquared()

    def counted(self, function):
        """The function, counting its calls as products."""

        def call(*arguments):
            self.products += 1
            return function(*arguments)

        return call

    def gradient(self, compiled):
        """A function that takes the gradient of the mean cross-entropy."""
        images, labels = self.batch

        def gradient():
            loss = F.cross_entropy(self.model(images), labels)
            return torch.autograd.grad(loss, self.parameters)

        return torch.compile(gradient) if compiled else gradient


class PyHessian(Package):
    def _of(self, loss):
        # The package's class hides the module of its name.
        module = sys.modules["pyhessian.hessian"]
        module.hessian_vector_product = self.counted(PLAIN_PRODUCT)
        data = {"data": self.batch, "cuda": False}
        return pyhessian.hessian(self.model, self.loss(loss), **data)

    def trace(self, kind, loss, probes):
        """Hutchinson: mean and standard error."""
        terms = self._of(loss).trace(maxIter=probes, tol=-math.inf)
        return float(np.mean(terms)), float(np.std(terms, ddof=1) / probes**0.5)

    def top(self, count):
        """Power iteration with deflation, at the tolerance that is the default."""
        return self._of("ce").eigenvalues(top_n=count)[0]

    def second_moment(self, runs, steps):
        """The density's."""
        torch.eig = _eig
        values, weights = self._of("ce").density(iter=steps, n_v=runs)
        both = zip(values, weights, strict=True)
        return float(np.mean([np.dot(w, np.square(v)) for v, w in both]))


def _eig(matrix, eigenvectors):
    """`torch.eig`, which PyHessian calls and PyTorch has no more."""
    values, vectors = torch.linalg.eigh(matrix)
    return torch.stack([values, torch.zeros_like(values)], 1), vectors


class Curvlinops(Package):
    def _of(self, kind, loss):
        make = {"hess": HessianLinearOperator, "ggn": GGNLinearOperator}[kind]
        batch, criterion, self.scale = self.batch, nn.CrossEntropyLoss(), 1.0
        if loss == "mse":
            # It insists on torch's loss, which is 2/C of ours.
            classes = self.model(batch[0][:1]).shape[1]
            batch = batch[0], F.one_hot(batch[1], classes).to(batch[0].dtype)
            criterion, self.scale = nn.MSELoss(), classes / 2
        options = {"check_deterministic": False}
        return make(self.model, criterion, self.parameters, [batch], **options)

    def _counting(self, operator):
        operator._matmat = self.counted(operator._matmat)
        return operator

    def ready(self, form):
        """Make a product or gradient that can be timed: compiled, and warm."""
        kind, _, how = form.partition(" ")
        compiled = how == "compiled"
        if kind == "gradient":
            self.timed[form] = self.gradient(compiled)
        else:
            operator, vector = self._of(kind, "ce"), torch.ones(self.size)

            def product():
                return operator @ vector

            self.timed[form] = torch.compile(product) if compiled else product
        self.seconds(form)

    def seconds(self, form):
        """Of one call of what `ready` has made."""
        begin = time.perf_counter()
        self.timed[form]()
        return time.perf_counter() - begin

    def trace(self, kind, loss, probes):
        """Hutchinson: its mean; it does not say an error."""
        operator, together = self._of(kind, loss), 8  # in memory
        parts = [min(together, probes - k) for k in range(0, probes, together)]
        terms = [n * float(hutchinson_trace(operator, n)) for n in parts]
        self.products = probes
        return self.scale * sum(terms) / probes, math.nan

    def top(self, count):
        """SciPy's eigsh on the operator, to the relative accuracy of PyHessian's."""
        linear = self._counting(self._of("hess", "ce")).to_scipy()
        return sorted(eigsh(linear, k=count, which="LA", tol=1e-3)[0])[::-1]

    def second_moment(self, runs, steps):
        """The density's."""
        operator = self._counting(self._of("hess", "ce"))
        grid, density = lanczos_approximate_spectrum(operator, steps, num_repeats=runs)
        weights = density / density.sum()
        return float((weights * grid**2).sum())


class Eigenthings(Package):
    def _of(self, kind, loss):
        criterion = self.loss(loss)
        if kind == "hess":
            made = eigenthings.HessianOperator(
                self.model, [self.batch], eigenthings.supervised_loss(criterion)
            )
        else:
            made = eigenthings.GGNOperator(
                self.model,
                [self.batch],
                eigenthings.supervised_forward,
                eigenthings.supervised_loss_of_output(criterion),
            )
        made.matvec = self.counted(made.matvec)
        return made

    def trace(self, kind, loss, probes):
        """Hutchinson: mean and standard error."""
        found = eigenthings.hutchinson(self._of(kind, loss), num_samples=probes, seed=0)
        return found.estimate, found.stderr

    def top(self, count):
        """Lanczos, of as many steps as the others' products."""
        options = {"which": "LA", "max_iter": 8 * count, "seed": 0}
        found = eigenthings.lanczos(self._of("hess", "ce"), k=count, **options)
        return sorted(found.eigenvalues.tolist())[::-1]

    def second_moment(self, runs, steps):
        """The density's."""
        found = eigenthings.spectral_density(
            self._of("hess", "ce"), num_runs=runs, lanczos_steps=steps, seed=0
        )
        weights = found.density / found.density.sum()
        return float((weights * found.grid**2).sum())

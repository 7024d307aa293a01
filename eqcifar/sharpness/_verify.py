"""Checks that anyone can run on their own machine: measured against known answers."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from eqcifar.errors import UsageError
from eqcifar.losses import LOSSES
from eqcifar.models import ResNet

from ._examples import Examples
from ._hessian_trace import hessian_trace
from ._lanczos import eigenpairs
from ._network import Network
from ._operator import operator
from ._output_traces import output_traces
from ._stochastic_trace import hutch_plus_plus


@dataclasses.dataclass(frozen=True)
class Check:
    """A number measured, the same by another road, and the difference allowed."""

    name: str
    measured: float
    expected: float
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether the two agree."""
        return bool(abs(self.measured - self.expected) <= self.allowed)


class _Linear(eqx.Module):
    layer: eqx.nn.Linear

    def __call__(self, x, state, *, key=None):
        return self.layer(jnp.ravel(x)), state


def verify(rtol: float = 1e-4) -> list[Check]:
    """Measure where the truth is known, in the default precision and on this device.

    Linear and softmax regression have closed forms: tr NTK = C mean(||x||^2 + 1) and
    tr H = mean((1 - sum p^2)(||x||^2 + 1)). For a small ResNet with BatchNorm the whole
    Hessian is formed by `jax.hessian`.

    **Arguments:**

    - `rtol`: the relative difference allowed to numbers without random error;
        estimates may differ by four standard errors.

    **Raises:**

    `UsageError` when `rtol` is not between 0 and 1.
    """
    if not 0 < rtol < 1:
        raise UsageError(f"rtol must be between 0 and 1, not {rtol:g}")
    rng = np.random.default_rng(0)
    images = rng.normal(size=(8, 3, 8, 8)).astype(np.float32)
    labels = rng.integers(0, 3, 8).astype(np.int32)
    examples = Examples(images, labels, batch_size=5)
    keys = iter(jax.random.split(jax.random.key(0), 5))
    checks = []

    def add(name: str, measured: float, expected: float, error: float = 0.0) -> None:
        allowed = float(rtol * abs(expected) + 4 * error)
        checks.append(Check(name, float(measured), float(expected), allowed))

    layer = _Linear(eqx.nn.Linear(192, 3, key=next(keys)))
    linear = Network(layer, eqx.nn.State(layer))
    square = (images.reshape(8, -1).astype(np.float64) ** 2).sum(axis=1) + 1
    logits = linear(linear.params, jnp.asarray(images))
    p = np.asarray(jax.nn.softmax(logits), dtype=np.float64)
    ntk = output_traces(linear, examples, "mse").estimate()
    add("linear regression: tr NTK", ntk.value, 3 * square.mean())
    ce = output_traces(linear, examples, "ce").estimate()
    truth = ((1 - (p**2).sum(axis=1)) * square).mean()
    add("softmax regression: tr H", ce.value, truth)

    model, state = eqx.nn.make_with_state(ResNet)(
        3,
        block="basic",
        shortcut="projection",
        depths=(1, 1),
        channels=(2, 3),
        key=next(keys),
    )
    network = Network(model, state)
    matrix = np.asarray(_dense(network, "ce", images, labels), dtype=np.float64)
    exact = hessian_trace(network, examples, "ce", key=next(keys))
    add("small ResNet: tr H, exact path", exact.hess.value, matrix.trace())
    apply = operator(network, examples, "ce")
    guess = hutch_plus_plus(apply, matvecs=450, key=next(keys))
    add(
        "small ResNet: tr H, Hutch++",
        guess.value,
        matrix.trace(),
        guess.standard_error,
    )
    top = eigenpairs(apply, steps=40, rtol=1e-5, key=next(keys))
    largest = np.linalg.eigvalsh(matrix)[-1]
    add("small ResNet: largest eigenvalue of H", top.values[0], largest)
    return checks


def _dense(
    network: Network, loss: str, images: np.ndarray, labels: np.ndarray
) -> Float[Array, "size size"]:
    flat, unravel = ravel_pytree(network.params)

    @jax.jit
    def hessian(theta: Array, images: Array, labels: Array) -> Array:
        def mean(t: Array) -> Array:
            logits = network(unravel(t), images)
            return jnp.mean(jax.vmap(LOSSES[loss])(logits, labels))

        return jax.jacfwd(jax.grad(mean))(theta)

    return hessian(flat, jnp.asarray(images), jnp.asarray(labels))

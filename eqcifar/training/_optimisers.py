"""What becomes of a gradient; `OPTIMISERS` names the ways."""

import dataclasses
import math
import operator
from collections.abc import Callable, Hashable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree
from optax import contrib

from ..config import TrainConfig
from ..errors import UsageError
from ..models import BatchNorm, is_weight
from ..models._whiten import takes_colours
from ._schedules import Schedule

# Few, for directions need not be exactly orthogonal: as many as in airbench94_muon.
_NEWTON_SCHULZ_STEPS = 3


@dataclasses.dataclass(frozen=True)
class Optimiser:
    """A way to turn gradients into steps.

    - `make`: `(config, schedule) -> optax.GradientTransformation`, from clipped
        gradients to what is added to the parameters. It reads the options that it has.
    - `decoupled`: whether it decays weights itself, after `decay_coefficients`.
        Otherwise L2 is part of the gradient, before it is clipped.
    """

    make: Callable[[TrainConfig, Schedule], optax.GradientTransformation]
    decoupled: bool = False


def sgd(config: TrainConfig, schedule: Schedule) -> optax.GradientTransformation:
    r"""SGD with momentum, Nesterov's or the heavy ball's.

    $v \leftarrow \mu v + g$; then $\theta \leftarrow \theta - \eta_t (\mu v + g)$, or
    $\theta - \eta_t v$ without `config.nesterov`. Sutskever et al., 2013,
    https://proceedings.mlr.press/v28/sutskever13.html, in the form of PyTorch.
    """
    return optax.sgd(schedule, config.momentum or None, config.nesterov)


def adamw(config: TrainConfig, schedule: Schedule) -> optax.GradientTransformation:
    r"""Adam with decoupled weight decay.

    $\theta \leftarrow \theta - \eta_t (\hat m / (\sqrt{\hat v} + 10^{-8}) + \lambda
    \theta)$, with means $\hat m$ and $\hat v$ of the gradient and its square over
    $\beta_1$, `config.momentum`, and $\beta_2$, `config.beta2`, without the bias of
    their start. Loshchilov & Hutter, 2019, https://arxiv.org/abs/1711.05101, in the
    form of PyTorch and Optax, where the decay is multiplied by all of $\eta_t$.
    """
    adam = promoting(optax.scale_by_adam(config.momentum, config.beta2))
    return optax.chain(adam, _add_decay(config), optax.scale_by_learning_rate(schedule))


def sgd_and_muon(
    config: TrainConfig, schedule: Schedule
) -> optax.GradientTransformation:
    """`muon` for the arrays that `moved_by_muon` names, `sgd` for the others.

    **Raises:**

    `UsageError` from `init` where Muon moves nothing.
    """

    def names(parameters):
        by_muon = moved_by_muon(parameters)
        if not any(jax.tree.leaves(by_muon)):
            raise UsageError(
                "optimiser = 'muon' needs a convolution beyond those that take "
                "colours, and this network has none: choose another"
            )
        return jax.tree.map(lambda moved: "muon" if moved else "sgd", by_muon)

    def muon_rate(step):
        return config.muon_lr / config.lr * schedule(step)

    optimisers: dict[Hashable, optax.GradientTransformation] = {
        "muon": muon(muon_rate, config.muon_momentum),
        "sgd": sgd(config, schedule),
    }
    return optax.partition(optimisers, names)


OPTIMISERS: dict[str, Optimiser] = {
    "sgd": Optimiser(sgd),
    "muon": Optimiser(sgd_and_muon),
    "adamw": Optimiser(adamw, decoupled=True),
}


def make_optimiser(
    config: TrainConfig, schedule: Schedule
) -> optax.GradientTransformation:
    """All that happens between the gradient of the loss and the parameters.

    L2, the norm for the log, clipping, the optimiser that `config` names, and the
    multiples of the learning rate of `learning_rates`.
    """
    optimiser = OPTIMISERS[config.optimiser]
    return optax.chain(
        optax.identity() if optimiser.decoupled else _add_decay(config),
        keep_gradient_norm(),
        optax.clip_by_global_norm(config.clip_norm)
        if config.clip_norm
        else optax.identity(),
        optimiser.make(config, schedule),
        _multiply(config),
    )


class GradientNorm(NamedTuple):
    """The Euclidean norm of the last gradient that came by."""

    gradient_norm: Float[Array, ""]


def keep_gradient_norm() -> optax.GradientTransformation:
    """Change nothing, and keep the norm, for `gradient_norm`."""

    def init(params):
        norm = jax.eval_shape(optax.tree.norm, params)
        return GradientNorm(jnp.zeros(norm.shape, norm.dtype))

    def update(updates, state, params=None):
        return updates, GradientNorm(optax.tree.norm(updates))

    return optax.GradientTransformation(init, update)


def gradient_norm(opt_state: optax.OptState) -> Float[Array, ""]:
    """The norm that `keep_gradient_norm` has kept in a chain's state."""
    return optax.tree.get(opt_state, "gradient_norm")


def moved_by_muon(parameters: PyTree) -> PyTree:
    """Whether Muon moves an array, and not SGD.

    These are the filters of convolutions, that is arrays of four axes, but not of those
    that take three channels, as colours are.
    """
    return jax.tree.map(lambda p: p.ndim == 4 and not takes_colours(p), parameters)


def learning_rates(parameters: PyTree, config: TrainConfig) -> PyTree:
    """The learning rate of each array, as a multiple of the schedule's.

    It is `config.bn_bias_lr` for the biases of `models.BatchNorm`, and 1 elsewhere.

    **Arguments:**

    - `parameters`: a model's floating-point arrays, as `eqx.filter` leaves them.
    - `config`: the recipe.

    **Returns:**

    A tree like `parameters`, of floats.
    """

    def of(node):
        ones = jax.tree.map(lambda _: 1.0, node)
        if not isinstance(node, BatchNorm):
            return ones
        return eqx.tree_at(lambda norm: norm.bias, ones, config.bn_bias_lr)

    return jax.tree.map(
        of, parameters, is_leaf=lambda node: isinstance(node, BatchNorm)
    )


def l2_coefficients(parameters: PyTree, config: TrainConfig) -> PyTree:
    r"""The coefficient $\lambda_i$ of each array in $\sum_i \lambda_i\theta_i^2 / 2$.

    **Arguments:**

    - `parameters`: a model's floating-point arrays, as `eqx.filter` leaves them.
    - `config`: the recipe. With an optimiser whose decay is decoupled, or one of one's
        own, the loss has no such term, and all are 0.

    **Returns:**

    A tree like `parameters`, of floats.
    """
    optimiser = OPTIMISERS.get(config.optimiser)
    if optimiser is None or optimiser.decoupled:
        return no_l2(parameters)
    return decay_coefficients(parameters, config)


def no_l2(parameters: PyTree) -> PyTree:
    """The coefficients of a loss without an L2 term."""
    return jax.tree.map(lambda _: 0.0, parameters)


def decay_coefficients(parameters: PyTree, config: TrainConfig) -> PyTree:
    r"""The coefficient $\lambda_i$ by which an optimiser decays each array.

    It is `config.weight_decay`; without `decay_bias` that of weights alone, and where a
    learning rate has a multiple, it is divided by that: decay by itself moves all
    parameters alike. Those that Muon moves have none: their length is set anyway.
    """

    def of(path, parameter, multiple, by_muon):
        decays = config.decay_bias or is_weight(path, parameter)
        by_muon = by_muon and config.optimiser == "muon"
        return config.weight_decay / multiple if decays and not by_muon else 0.0

    multiples = learning_rates(parameters, config)
    return jax.tree.map_with_path(of, parameters, multiples, moved_by_muon(parameters))


def _add_decay(config: TrainConfig) -> optax.GradientTransformation:
    def add(update, parameter, coefficient):
        return update + coefficient * parameter if coefficient else update

    return optax.stateless(
        lambda updates, parameters: jax.tree.map(
            add, updates, parameters, decay_coefficients(parameters, config)
        )
    )


def _multiply(config: TrainConfig) -> optax.GradientTransformation:
    return optax.stateless(
        lambda updates, parameters: jax.tree.map(
            operator.mul, learning_rates(parameters, config), updates
        )
    )


def promoting(
    transformation: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """The same where dtypes are promoted strictly, with updates as its gradients are.

    Strict promotion refuses Optax's power of a float by a count.
    """

    def update(updates, state, params=None):
        with jax.numpy_dtype_promotion("standard"):
            moved, state = transformation.update(updates, state, params)
        moved = jax.tree.map(lambda new, old: new.astype(old.dtype), moved, updates)
        return moved, state

    return optax.GradientTransformation(transformation.init, update)


def muon(schedule: Schedule, momentum: float) -> optax.GradientTransformation:
    r"""Steps of one length in all directions, for filters whose own length is fixed.

    With a convolution's array as a matrix of one row for each of its $n$ output
    channels, $\theta \leftarrow \sqrt{n}\,\theta / \lVert\theta\rVert_F -
    \eta_t\,\mathrm{msign}(d)$. Here $d$ is Nesterov's direction: $\mu v + g$ once $v
    \leftarrow \mu v + g$ has forgotten its start, for which Optax corrects before. Of
    $\mathrm{msign}(U S V^\top) = U V^\top$, three Newton-Schulz iterations give an
    approximation, see docs/reference/recipes.md. The rescaling changes no output where
    BatchNorm follows, and stands for L2.

    Jordan, 2024, "Muon: An optimizer for hidden layers in neural networks",
    https://kellerjordan.github.io/posts/muon/; three iterations and the rescaling are
    those of https://github.com/KellerJordan/cifar10-airbench, airbench94_muon.py.

    **Arguments:**

    - `schedule`: $\eta_t$, a function of the step.
    - `momentum`: $\mu$.
    """

    def as_matrices(arrays: PyTree) -> PyTree:
        numbers = contrib.MuonDimensionNumbers((1, 2, 3), 0)
        return jax.tree.map(lambda _: numbers, arrays)

    directions = contrib.scale_by_muon(
        ns_steps=_NEWTON_SCHULZ_STEPS,
        beta=momentum,
        weight_dimension_numbers=as_matrices,
    )

    return optax.chain(
        promoting(directions),
        optax.scale_by_learning_rate(schedule),
        optax.stateless(_rescale),
    )


def _rescale(updates: PyTree, parameters: PyTree) -> PyTree:
    def add_rescaling(update, parameter):
        norm = jnp.linalg.norm(parameter.ravel())
        factor = jnp.where(norm > 0, math.sqrt(len(parameter)) / norm, 1)
        return update + (factor - 1) * parameter

    return jax.tree.map(add_rescaling, updates, parameters)

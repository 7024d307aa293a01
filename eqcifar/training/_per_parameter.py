"""What a step does otherwise for some parameters: optimiser, learning rate and L2."""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, PyTree

from ..config import TrainConfig
from ..models import BatchNorm
from ..models._whiten import takes_colours


def moved_by_muon(parameters: PyTree, config: TrainConfig) -> PyTree:
    """Whether Muon moves an array, and not SGD.

    With `config.muon_lr` these are the filters of convolutions, that is arrays of four
    axes, but not of those that take three channels, as colours are.
    """

    def of(parameter):
        is_filter = parameter.ndim == 4 and not takes_colours(parameter)
        return bool(config.muon_lr) and is_filter

    return jax.tree.map(of, parameters)


def learning_rates(parameters: PyTree, config: TrainConfig) -> PyTree:
    """The learning rate of each array, as a multiple of the schedule's.

    It is `config.bn_bias_lr` for the biases of `models.BatchNorm`, and 1 elsewhere.
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
    - `config`: gives $\lambda$, `weight_decay`; without `decay_bias` it is that of
        weights alone, and where a learning rate has a multiple, it is divided by that:
        L2 by itself moves all parameters alike. Those that `moved_by_muon` names have
        none: their length is set anyway.

    **Returns:**

    A tree like `parameters`, of floats.
    """

    def of(path, parameter, multiple, by_muon):
        decays = config.decay_bias or _is_weight(path, parameter)
        return config.weight_decay / multiple if decays and not by_muon else 0.0

    multiples = learning_rates(parameters, config)
    by_muon = moved_by_muon(parameters, config)
    return jax.tree.map_with_path(of, parameters, multiples, by_muon)


def _is_weight(path: tuple[Any, ...], parameter: Array) -> bool:
    """Whether it is neither a bias, of any shape, nor one of BatchNorm's parameters."""
    return parameter.ndim > 1 and getattr(path[-1], "name", None) != "bias"

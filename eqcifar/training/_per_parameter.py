"""What a step does otherwise for some parameters: learning rate and L2."""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, PyTree

from ..config import TrainConfig
from ..models import BatchNorm


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
        L2 by itself moves all parameters alike.

    **Returns:**

    A tree like `parameters`, of floats.
    """

    def of(path, parameter, multiple):
        decays = config.decay_bias or _is_weight(path, parameter)
        return config.weight_decay / multiple if decays else 0.0

    multiples = learning_rates(parameters, config)
    return jax.tree.map_with_path(of, parameters, multiples)


def _is_weight(path: tuple[Any, ...], parameter: Array) -> bool:
    """Whether it is neither a bias, of any shape, nor one of BatchNorm's parameters."""
    return parameter.ndim > 1 and getattr(path[-1], "name", None) != "bias"

"""Train CIFAR classifiers in JAX and Equinox, and measure how sharp their minima are.

The names are in the rooms: `eqcifar.models`, `eqcifar.data`, `eqcifar.training`,
`eqcifar.sharpness` and `eqcifar.runs`. Importing this package imports none of them.
"""

__version__ = "0.1.0"

"""The learning rate of each step; `SCHEDULES` names the ways."""

from collections.abc import Callable

import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from ..config import TrainConfig
from ..errors import UsageError

# schedule(step, counted from 0) -> learning rate
Schedule = Callable[[ArrayLike], Float[Array, ""]]


def cosine(peak: float, warmup: int, steps: int) -> Schedule:
    """Half a cosine from the peak to 0 at the last step.

    Loshchilov & Hutter, 2017, https://arxiv.org/abs/1608.03983, without restarts.
    """
    start = 0.0 if warmup else peak
    schedule = optax.warmup_cosine_decay_schedule(start, peak, warmup, steps)
    # Optax divides the step as it is; strict dtype promotion refuses an integer's.
    return lambda step: jnp.asarray(schedule(jnp.asarray(step, jnp.float32)))


def linear(peak: float, warmup: int, steps: int) -> Schedule:
    """A line from the peak to 0 at the last step.

    With up to half of the steps for warm-up, it is the triangle of Smith & Topin, 2018,
    https://arxiv.org/abs/1708.07120.
    """
    return _through((0, 0.0 if warmup else peak), (warmup, peak), (steps, 0.0))


def constant(peak: float, warmup: int, steps: int) -> Schedule:
    """The peak."""
    return _through((0, 0.0 if warmup else peak), (warmup, peak))


def step_decay(peak: float, warmup: int, steps: int) -> Schedule:
    """A tenth of the peak after half of the steps, a hundredth after three quarters.

    He et al., 2016, section 4.2, https://arxiv.org/abs/1512.03385.
    """
    rise = constant(peak, warmup, steps)

    def rate(step):
        step = jnp.asarray(step)
        late = jnp.where(step >= 3 * steps // 4, 0.01, 0.1)
        return rise(step) * jnp.where(step >= steps // 2, late, 1.0)

    return rate


def warmup_stable_decay(peak: float, warmup: int, steps: int) -> Schedule:
    """The peak, and over the last fifth of the steps a line from it to 0.

    Hu et al., 2024, section 4.2, https://arxiv.org/abs/2404.06395; the line and the
    fifth are those of Hägele et al., 2024, https://arxiv.org/abs/2405.18392.
    """
    fall = max(warmup, steps - steps // 5)
    corners = (warmup, peak), (fall, peak), (steps, 0.0)
    return _through((0, 0.0 if warmup else peak), *corners)


# Each is given the peak, the steps of linear warm-up to it, and all steps.
SCHEDULES: dict[str, Callable[[float, int, int], Schedule]] = {
    "cosine": cosine,
    "linear": linear,
    "constant": constant,
    "step": step_decay,
    "wsd": warmup_stable_decay,
}


def steps_per_epoch(config: TrainConfig, num_train: int) -> int:
    """Steps in one epoch, in which each example is drawn at most once.

    The remainder of the division by the batch size is left out of an epoch; every
    epoch leaves out others.

    **Arguments:**

    - `config`: gives `batch_size`.
    - `num_train`: training examples.

    **Raises:**

    `UsageError` when there are fewer examples than one batch.
    """
    if num_train < config.batch_size:
        raise UsageError(
            f"batch_size = {config.batch_size} is larger than the training set of "
            f"{num_train} images: choose --batch-size {num_train} or less"
        )
    return num_train // config.batch_size


def learning_rate(config: TrainConfig, num_train: int) -> Schedule:
    """The schedule that a configuration names, after its linear warm-up.

    **Arguments:**

    - `config`: gives `schedule`, `lr`, `warmup`, and the steps.
    - `num_train`: training examples.

    **Returns:**

    A function from the step, counted from 0, to the learning rate. The first step's
    is 0 if there is a warm-up, as in the original.
    """
    steps = config.epochs * steps_per_epoch(config, num_train)
    make = SCHEDULES[config.schedule]
    return make(config.lr, int(config.warmup * steps), steps)


def _through(*corners: tuple[int, float]) -> Schedule:
    at, rates = (jnp.array(axis, float) for axis in zip(*corners, strict=True))
    return lambda step: jnp.interp(jnp.asarray(step, float), at, rates)

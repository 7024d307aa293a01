"""A configuration and one's own parts, turned once into the parts of training."""

import dataclasses
import inspect
from collections.abc import Callable
from functools import lru_cache, partial

import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from ..config import TrainConfig
from ..losses import AnyLoss, Loss, get_loss
from ._augmentations import AUGMENTATIONS, Augmentation
from ._average import Kept, exponential, mean_of_epochs
from ._optimisers import (
    keep_gradient_norm,
    l2_coefficients,
    make_optimiser,
    no_l2,
    promoting,
)
from ._schedules import Schedule, learning_rate, steps_per_epoch

# One's own: a transformation, or a function of the schedule that makes one.
AnyOptimiser = (
    optax.GradientTransformation | Callable[[Schedule], optax.GradientTransformation]
)


@dataclasses.dataclass(frozen=True)
class View:
    """How the network sees images that are not augmented.

    - `mean`, `std`: see `eqcifar.data.normalise`.
    - `precision`: of the network.
    - `flip`, `crop`: whether outputs are means over mirror images and shifts.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    precision: str
    flip: bool = False
    crop: bool = False


def one_view(config: TrainConfig) -> View:
    """How a configuration has training images measured."""
    return View(config.mean, config.std, config.precision)


def test_view(config: TrainConfig) -> View:
    """How a configuration has other images measured."""
    flip, crop = config.test_flip, config.test_crop
    return dataclasses.replace(one_view(config), flip=flip, crop=crop)


@dataclasses.dataclass(frozen=True)
class Sam:
    """Sharpness-aware minimisation.

    - `radius`, `adaptive`: see `eqcifar.sam.perturbation`.
    - `group`: examples that have a perturbation of their own.
    """

    radius: float
    adaptive: bool
    group: int


# The same object for the same parts, so that one program serves all that have it.
@dataclasses.dataclass(frozen=True, eq=False)
class Recipe:
    """What training is made of.

    - `epochs`, `batch_size`, `steps_per_epoch`, `eval_every`: how long, in what pieces.
    - `crop_pad`: pixels of padding before crops and flips; `None`: neither.
    - `cutout`: side of the squares, in pixels.
    - `augmentations`: what then happens to a batch, in this order.
    - `alternating_flips`: whether the mirrored half takes turns.
    - `loss`, `optimiser`: of one example, and of the gradient of its mean.
    - `l2`: the coefficients of the L2 term, of parameters: see `l2_coefficients`.
    - `sam`: where the gradient is taken; `None`: at the parameters.
    - `schedule`: the learning rate of each step, for the log.
    - `bn_group`: see `TrainConfig`.
    - `average`: how the average moves that is evaluated, if one is.
    - `whiten`: whether the first convolution starts from the images.
    - `view`: how training images are measured; `test_view`: how others are.
    - `remedy`: what to do when training diverges.
    """

    epochs: int
    batch_size: int
    steps_per_epoch: int
    eval_every: int
    crop_pad: int | None
    cutout: int
    augmentations: tuple[Augmentation, ...]
    alternating_flips: bool
    loss: Loss
    optimiser: optax.GradientTransformation
    l2: Callable[[PyTree], PyTree]
    sam: Sam | None
    schedule: Schedule
    bn_group: int
    average: Kept | None
    whiten: bool
    view: View
    test_view: View
    remedy: str


def make_recipe(
    config: TrainConfig,
    num_train: int,
    *,
    loss: AnyLoss | None = None,
    optimiser: AnyOptimiser | None = None,
    schedule: Schedule | None = None,
) -> Recipe:
    """Turn a configuration into parts; its seed has no part in them.

    **Arguments:**

    - `config`: the recipe.
    - `num_train`: training examples, which decide the schedule's length.
    - `loss`, `optimiser`, `schedule`: in place of those that `config` names, see
        `fit`.

    **Returns:**

    A `Recipe`: the same object for the same arguments, if one's own are functions. An
    object can change between calls; a function is what it is, as for `jax.jit`.

    **Raises:**

    `UsageError` for names and options that cannot be had.
    """
    given = {"loss": loss, "optimiser": optimiser, "schedule": schedule}
    given = {name for name, part in given.items() if part is not None}
    if isinstance(optimiser, optax.GradientTransformation):
        given.add("schedule")
    config.check_parts(given)
    loss = get_loss(config.loss if loss is None else loss, config.label_smoothing)
    own = loss.function, optimiser, schedule
    fixed = optax.GradientTransformation, type(None)
    hashable = all(inspect.isfunction(x) or isinstance(x, fixed) for x in own)
    make = _make_recipe if hashable else _make_recipe.__wrapped__
    config = dataclasses.replace(config, seed=0)
    return make(config, num_train, loss, optimiser, schedule)


@lru_cache(maxsize=8)
def _make_recipe(
    config: TrainConfig,
    num_train: int,
    loss: Loss,
    optimiser: AnyOptimiser | None,
    schedule: Schedule | None,
) -> Recipe:
    finished = isinstance(optimiser, optax.GradientTransformation)
    if schedule is None and not finished:
        schedule = learning_rate(config, num_train)
    sam = Sam(config.sam, config.sam_adaptive, config.sam_m or config.batch_size)
    l2 = no_l2
    if optimiser is not None:
        chain = _own_optimiser(optimiser, schedule)
        remedy = "lower the learning rate of your optimiser, or clip its gradients"
    else:
        assert schedule is not None  # noqa: S101, for the type checker
        chain, remedy = make_optimiser(config, schedule), _remedy(config)
        l2 = partial(l2_coefficients, config=config)
    return Recipe(
        epochs=config.epochs,
        batch_size=config.batch_size,
        steps_per_epoch=steps_per_epoch(config, num_train),
        eval_every=config.eval_every,
        crop_pad=config.crop_pad if config.augment else None,
        alternating_flips=config.flip == "alternating",
        cutout=config.cutout,
        augmentations=tuple(
            make(config)
            for name, make in AUGMENTATIONS.items()
            if getattr(config, name)
        ),
        loss=loss,
        optimiser=chain,
        l2=l2,
        sam=sam if sam.radius else None,
        schedule=_unknown if schedule is None else schedule,
        bn_group=config.bn_group,
        average=_average(config, num_train),
        whiten=config.whiten,
        view=one_view(config),
        test_view=test_view(config),
        remedy=remedy,
    )


def _average(config: TrainConfig, num_train: int) -> Kept | None:
    if config.ema:
        return exponential(config.ema)
    if config.swa_from:
        return mean_of_epochs(config.swa_from, steps_per_epoch(config, num_train))
    return None


def _own_optimiser(
    optimiser: AnyOptimiser, schedule: Schedule | None
) -> optax.GradientTransformation:
    if not isinstance(optimiser, optax.GradientTransformation):
        assert schedule is not None  # noqa: S101, for the type checker
        return optax.chain(keep_gradient_norm(), promoting(optimiser(schedule)))
    chain = [keep_gradient_norm(), promoting(optimiser)]
    return optax.chain(
        *chain, *([optax.scale_by_schedule(schedule)] if schedule else [])
    )


def _remedy(config: TrainConfig) -> str:
    rates = f"lr = {config.lr:g}"
    if config.muon_lr:
        rates += f", muon_lr = {config.muon_lr:g}"
    return (
        f"lower the learning rate ({rates}), clip gradients (clip_norm = "
        f"{config.clip_norm:g}; 0: never), or lengthen the warm-up"
    )


def _unknown(step: ArrayLike) -> Float[Array, ""]:
    """What an optimiser of one's own keeps to itself."""
    return jnp.full((), jnp.nan)

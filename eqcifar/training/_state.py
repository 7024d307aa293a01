import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int32, PyTree, UInt8

from .. import data
from ..config import TrainConfig
from ..errors import UsageError
from ..losses import AnyLoss
from ..models import check_real, whiten
from ._forward import Model
from ._recipe import AnyOptimiser, make_recipe
from ._schedules import Schedule

_WHITENING_IMAGES = 5000


class Totals(eqx.Module):
    """Sums over the steps of the current epoch, which its log row divides."""

    loss: Float[Array, ""]
    correct: Int32[Array, ""]
    gradient_norm: Float[Array, ""]

    @staticmethod
    def zero() -> "Totals":
        """The sums before the first step of an epoch."""
        return Totals(jnp.zeros(()), jnp.zeros((), jnp.int32), jnp.zeros(()))

    def plus(
        self,
        place: Int32[Array, ""],
        loss: Float[Array, ""],
        correct: Bool[Array, " batch"],
        gradient_norm: Float[Array, ""],
    ) -> "Totals":
        """The sums after a step, whose `place` in the epoch may be the first."""
        before = jax.tree.map(
            lambda total: jnp.where(place == 0, jnp.zeros_like(total), total), self
        )
        return Totals(
            before.loss + loss.astype(self.loss.dtype),
            before.correct + jnp.sum(correct, dtype=jnp.int32),
            before.gradient_norm + gradient_norm.astype(self.gradient_norm.dtype),
        )


class TrainState(eqx.Module):
    """All that changes during training: what a checkpoint holds.

    Randomness is a function of the seed and `step`, so nothing else has to be saved.

    - `model`, `state`: the network, which is evaluated and saved.
    - `opt_state`: the optimiser's momentum, count of steps and the like.
    - `step`: steps taken, over all epochs.
    - `totals`: of the current epoch.
    - `raw`: with `config.ema` or `config.swa_from`, the model and state that the steps
        move, of which the network is an average. Otherwise they move the network.
    """

    model: Model
    state: eqx.nn.State
    opt_state: optax.OptState
    step: Int32[Array, ""]
    totals: Totals
    raw: tuple[Model, eqx.nn.State] | None = None

    @property
    def moving(self) -> tuple[Model, eqx.nn.State]:
        """The model and state that the next step starts from."""
        return (self.model, self.state) if self.raw is None else self.raw

    def has_ended(self, config: TrainConfig, steps_per_epoch: int) -> bool:
        """Whether no step is left, for all epochs are over or `until_loss` is reached.

        **Arguments:**

        - `config`: gives `epochs` and `until_loss`.
        - `steps_per_epoch`: how many there are.
        """
        done, place = divmod(int(self.step), steps_per_epoch)
        if not done or place:
            return False
        return config.ends_at(done, float(self.totals.loss) / steps_per_epoch)


def initialise(
    model: Model,
    state: eqx.nn.State,
    config: TrainConfig,
    num_train: int,
    *,
    images: UInt8[np.ndarray, "n height width 3"] | None = None,
    loss: AnyLoss | None = None,
    optimiser: AnyOptimiser | None = None,
    schedule: Schedule | None = None,
) -> TrainState:
    """The state before the first step.

    **Arguments:**

    - `model`, `state`: as `eqx.nn.make_with_state` made them.
    - `config`: the recipe.
    - `num_train`: training examples, which decide the schedule's length.
    - `images`: of these examples; only needed with `config.whiten`, which starts the
        first convolution from them.
    - `loss`, `optimiser`, `schedule`: as in `fit`. Where they are given to it alone, it
        starts their state.

    **Raises:**

    `UsageError` when `config.whiten` or the optimiser cannot be done, and for
    complex parameters.
    """
    recipe = make_recipe(
        config, num_train, loss=loss, optimiser=optimiser, schedule=schedule
    )
    if recipe.whiten:
        if images is None:
            raise UsageError(
                "whiten needs the training images: initialise(..., images)"
            )
        # Evenly spaced, for those of a folder may come class by class.
        few = images[:: -(-len(images) // _WHITENING_IMAGES)]
        few = data.normalise(jnp.asarray(few), recipe.view.mean, recipe.view.std)
        model = whiten(model, few)
    parameters = eqx.filter(model, eqx.is_inexact_array)
    check_real(parameters)
    # Donated with the rest, so they may not share buffers with the caller's arrays.
    network = copied((model, state))
    raw = copied((model, state)) if recipe.average else None
    return TrainState(
        *network,
        opt_state=recipe.optimiser.init(parameters),
        step=jnp.zeros((), jnp.int32),
        totals=Totals.zero(),
        raw=raw,
    )


# One program for all arrays.
@eqx.filter_jit
def copied(tree: PyTree) -> PyTree:
    """The same with arrays of its own, which outlive those that are donated."""
    return jax.tree.map(lambda leaf: leaf.copy() if eqx.is_array(leaf) else leaf, tree)

import dataclasses
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int32, UInt8

from .. import data
from ..config import TrainConfig
from ..losses import LOSSES, AnyLoss, get_loss
from ..parallel import gather, jit, make_mesh, replicate, split_batch
from ._calibration import CalibrationError, calibration_error
from ._forward import Model, cast, compute_dtype, forward
from ._recipe import View, test_view


def predict(
    model: Model,
    state: eqx.nn.State,
    images: UInt8[Array, "n height width 3"] | UInt8[np.ndarray, "n height width 3"],
    config: TrainConfig | View,
    *,
    batch_size: int = 1000,
    mesh: Mesh | None = None,
) -> Float[np.ndarray, "n classes"]:
    """Logits of every image, in inference mode and without random augmentation.

    With `config.test_flip`, the mean of those of the image and of its mirror image:
    Krizhevsky et al., 2012, section 4.1, without their crops. With `config.test_crop`,
    half of that and a quarter each of the crops one pixel up and left, and down and
    right, after padding by reflection: Jordan, 2024, section 3.5. Training images are
    measured with `config.one_view()`, wherever the package measures them.

    **Arguments:**

    - `model`: maps one example `(x, state)` to `(logits, state)`.
    - `state`: its state, such as running statistics.
    - `images`: pixels in 0 to 255.
    - `config`: gives the normalisation, the precision, `test_flip` and `test_crop`; or
        a `View` of these alone.
    - `batch_size`: images at a time; it does not change the result.
    - `mesh`: the devices to use; all by default.

    **Returns:**

    The logits, float32 (float64 for a float64 model), in the order of the images.
    """
    mesh = make_mesh() if mesh is None else mesh
    n = len(images)
    batch_size = -(-min(batch_size, n) // mesh.size) * mesh.size
    model, state, images = replicate((model, state, jnp.asarray(images)), mesh)
    starts = np.arange(0, n, batch_size, dtype=np.int32)
    # All in one call, except on the CPU, where convolutions in a loop are slower.
    calls = len(starts) if jax.default_backend() == "cpu" else 1
    parts = [jnp.asarray(part) for part in np.split(starts, calls)]
    seen_as = test_view(config) if isinstance(config, TrainConfig) else config
    one = dataclasses.replace(seen_as, flip=False, crop=False)

    def seen(shift, flip):
        view = jnp.asarray(shift), jnp.asarray(flip)
        logits = [
            _predict_batches(model, state, images, part, *view, one, batch_size, mesh)
            for part in parts
        ]
        # The last batch is filled up with the last image; its copies are cut off.
        return np.concatenate([np.asarray(part) for part in logits])[:n]

    shifts = {0: 0.5, -1: 0.25, 1: 0.25} if seen_as.crop else {0: 1.0}
    flips = (False, True) if seen_as.flip else (False,)
    views = itertools.product(shifts.items(), flips)
    return np.sum(
        [weight / len(flips) * seen(shift, flip) for (shift, weight), flip in views],
        axis=0,
    )


@jit
def _predict_batches(model, state, images, starts, shift, flip, seen, batch_size, mesh):
    exact, dtype = compute_dtype(model, "f32"), compute_dtype(model, seen.precision)
    inference = cast(eqx.nn.inference_mode(model), dtype)

    def predict_batch(start):
        indices = start + jnp.arange(batch_size, dtype=start.dtype)
        indices = split_batch(jnp.minimum(indices, len(images) - 1), mesh)
        view = data.shift_and_flip(
            images[indices],
            jnp.broadcast_to(shift, (batch_size, 2)),
            jnp.broadcast_to(flip, (batch_size,)),
        )
        inputs = data.normalise(view, seen.mean, seen.std, exact)
        return forward(inference, state, inputs.astype(dtype)).astype(exact)

    if len(starts) == 1:
        return gather(predict_batch(starts[0]), mesh)
    logits = gather(jax.lax.map(predict_batch, starts), mesh)
    return logits.reshape(-1, logits.shape[-1])


@dataclasses.dataclass(frozen=True)
class Interval:
    """A value with its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How well logits predict labels, over all examples of a split.

    - `accuracy`: share of examples whose largest logit is the label's, with Wilson's
        interval.
    - `accuracy_top5`: share whose label is among the five largest logits, likewise.
    - `loss`: mean loss of an example, with a normal interval.
    - `calibration_error`: expected calibration error in 15 bins of equal width, without
        the bias of the plug-in, which stands beside it.
    - `class_accuracy`: accuracy among the examples of each class; nan where a class
        has none.
    """

    examples: int
    accuracy: Interval
    accuracy_top5: Interval
    loss: Interval
    calibration_error: CalibrationError
    class_accuracy: tuple[Interval, ...]


def evaluate(
    logits: Float[np.ndarray, "n classes"],
    labels: Int32[np.ndarray, " n"],
    loss: AnyLoss,
    *,
    label_smoothing: float = 0.0,
) -> Evaluation:
    """Measure predictions on a split.

    **Arguments:**

    - `logits`: as `predict` returns them.
    - `labels`: the classes.
    - `loss`: as for `eqcifar.losses.get_loss`. Confidence is the largest of the
        `probabilities` that it gives.
    - `label_smoothing`: of the target, which is one-hot without, as in `TrainConfig`.
        MixUp is augmentation, and no part of a measured loss.

    **Returns:**

    An `Evaluation`.
    """
    n, classes = logits.shape
    losses = example_losses(logits, labels, loss, label_smoothing)
    correct = logits.argmax(axis=1) == labels
    rank = (logits > logits[np.arange(n), labels][:, None]).sum(axis=1)
    half_width = 1.96 * losses.std(ddof=1) / np.sqrt(n) if n > 1 else np.inf
    confidence = probabilities(logits, loss).max(axis=1)
    return Evaluation(
        examples=n,
        accuracy=_proportion(correct),
        accuracy_top5=_proportion(rank < min(5, classes)),
        loss=Interval(
            float(losses.mean()),
            float(losses.mean() - half_width),
            float(losses.mean() + half_width),
        ),
        calibration_error=calibration_error(confidence, correct),
        class_accuracy=tuple(_proportion(correct[labels == c]) for c in range(classes)),
    )


def probabilities(
    logits: Float[np.ndarray, "n classes"], loss: AnyLoss
) -> Float[np.ndarray, "n classes"]:
    """What a network's outputs say of each class, by the loss that it was trained with.

    **Arguments:**

    - `logits`: as `predict` returns them.
    - `loss`: as for `eqcifar.losses.get_loss`, whose `probabilities` are taken; the
        softmax for the name of a function of one's own.

    **Returns:**

    Numbers from 0 to 1.
    """
    if isinstance(loss, str) and loss not in LOSSES:
        loss = LOSSES["ce"]
    shares = get_loss(loss).probabilities
    return np.asarray(jax.vmap(shares)(jnp.asarray(logits)))


def example_losses(
    logits: Float[np.ndarray, "n classes"],
    labels: Int32[np.ndarray, " n"],
    loss: AnyLoss,
    label_smoothing: float = 0.0,
) -> Float[np.ndarray, " n"]:
    """The loss of each example, as it is trained but for MixUp."""
    function = get_loss(loss, label_smoothing)
    return np.asarray(jax.vmap(function)(jnp.asarray(logits), jnp.asarray(labels)))


def _proportion(hits: np.ndarray) -> Interval:
    if not len(hits):
        return Interval(np.nan, np.nan, np.nan)
    # Here, for it takes longer to import than all the rest.
    from scipy.stats import binomtest

    test = binomtest(int(hits.sum()), len(hits))
    interval = test.proportion_ci(method="wilson")
    return Interval(float(hits.mean()), float(interval.low), float(interval.high))

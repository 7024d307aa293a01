"""The general path: quadratic forms in random directions, one jvp of a jvp each."""

import dataclasses
import time
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from eqcifar.errors import UsageError
from eqcifar.losses import AnyLoss, Loss, get_loss
from eqcifar.parallel import jit

from ._estimate import Estimate, Target, estimate_mean
from ._examples import Batch, Examples, stream
from ._flips import can_flip, flipped_directional, sign_count
from ._network import Network, coupled, directional, scaling
from ._stopping import Stop

Law = Literal["rademacher", "normal"]


def random_direction(key: PRNGKeyArray, params: PyTree, law: Law) -> PyTree:
    """Draw v with E[v v'] = I in the shape of the parameters.

    One flat draw: a draw for each array costs seconds of compilation.
    """
    flat, unravel = ravel_pytree(params)
    draw = {"rademacher": jax.random.rademacher, "normal": jax.random.normal}[law]
    return unravel(draw(key, flat.shape, flat.dtype))


@jit
def quadratic_forms(
    network: Network,
    loss: Loss,
    images: Float[Array, "batch ..."],
    labels: Int[Array, " batch"],
    vector: PyTree,
    signs: Float[Array, "batch signs"] | None = None,
) -> dict[str, Float[Array, " batch"]]:
    """Return four quadratic forms of each example from one pass.

    With f the logits, s = df[v] and b = d2f[v, v]:

        ntk   = s's                  (v'J'Jv)
        ggn   = s'(d2l/df2)s         (v'J'HJv)
        resid = (dl/df)'b
        hess  = ggn + resid          (v' d2l/dtheta2 v)

    About 1.4 gradients on a CPU (docs/measurements/sharpness.md): five forward
    convolutions a layer for one forward and two backward, where a Hessian-vector
    product has eight.
    The second-order terms do not cancel in low precision. With `signs`, v is each
    example's own: see `flipped_directional`.
    """
    if signs is None:
        logits, slope, bend = directional(network, images, vector)
    else:
        logits, slope, bend = flipped_directional(network, images, vector, signs)
    gradient = jax.vmap(jax.grad(loss))(logits, labels)
    curved = jax.vmap(loss.hessian_product)
    ggn = jnp.sum(slope * curved(logits, labels, slope), axis=1)
    resid = jnp.sum(gradient * bend, axis=1)
    ntk = jnp.sum(slope**2, axis=1)
    return {"hess": ggn + resid, "ggn": ggn, "resid": resid, "ntk": ntk}


@jit
def _forms_of_key(network, loss, images, labels, key, law, scaled, flip):
    vector = random_direction(key, network.params, law)
    vector = jax.tree.map(
        lambda v, d: v * jnp.sqrt(d), vector, scaling(network.params, scaled)
    )
    signs = None
    if flip:
        shape = len(images), sign_count(network)
        key = jax.random.fold_in(key, 0)
        signs = jax.random.rademacher(key, shape, images.dtype)
    return quadratic_forms(network, loss, images, labels, vector, signs)


@dataclasses.dataclass(frozen=True)
class ProbeTraces:
    """Per-example quadratic forms: one row an example, one column a probe.

    `values` has the tables `hess`, `ggn`, `resid` and `ntk`; `groups` says which
    examples shared their probes.
    """

    values: dict[str, Float[np.ndarray, "examples probes"]]
    groups: Int[np.ndarray, " examples"]
    ids: Int[np.ndarray, " examples"]
    population: int
    seconds: float

    def estimate(self, name: str = "hess", *, target: Target = "split") -> Estimate:
        """Estimate the mean over examples of the trace of `name`."""
        return estimate_mean(
            self.values[name],
            groups=self.groups,
            population=self.population,
            target=target,
            seconds=self.seconds,
        )

    def controlled(
        self, ggn: Float[np.ndarray, " examples"], *, target: Target = "split"
    ) -> Estimate:
        """Estimate tr H with the exact per-example tr GGN as control variate.

        The mean of ggn_i + resid_im: only the residual's probes add noise.
        """
        return estimate_mean(
            ggn[:, None] + self.values["resid"],
            groups=self.groups,
            population=self.population,
            target=target,
            seconds=self.seconds,
        )


def probe_traces(
    network: Network,
    examples: Examples,
    loss: AnyLoss,
    *,
    probes: int,
    fresh: bool = True,
    flip: bool | None = None,
    law: Law = "rademacher",
    scaled: str = "plain",
    measure: str = "hess",
    rtol: float | None = None,
    level: float = 0.95,
    target: Target = "split",
    key: PRNGKeyArray,
) -> ProbeTraces:
    """Estimate the traces of H, GGN, residual and NTK by random directions.

    **Arguments:**

    - `probes`: directions for each batch. With one, probe and data errors cannot be
        told apart and the interval is wide.
    - `fresh`: draw new directions for every batch, which makes the error of the
        mean fall with the number of batches; otherwise all batches share them, which
        makes two splits comparable direction by direction.
    - `flip`: change the signs of a batch's direction for each example, which makes
        examples err on their own: see `flipped_directional`. By default if directions
        are fresh and the network admits it.
    - `scaled`: weigh each parameter's direction, see `scaling`.
    - `rtol`: stop when the interval of `measure` reaches at most that far to either
        side, relative to the value, after at least 20 batches.
    - `key`: batch k uses `fold_in(key, k)`, so neither order nor interruption matter.

    **Returns:**

    `ProbeTraces`.
    """
    if probes < 1:
        raise UsageError(f"{probes} random directions: at least 1 is needed")
    loss = get_loss(loss)
    if flip is None:
        flip = fresh
    if flip:
        images = examples.batch(0).images
        flip = can_flip(network, images) and not coupled(network, images)

    def kernel(batch: Batch) -> dict[str, Array]:
        seed = jax.random.fold_in(key, batch.number if fresh else 0)
        runs = [
            _forms_of_key(
                network,
                loss,
                batch.images,
                batch.labels,
                jax.random.fold_in(seed, m),
                law,
                scaled,
                flip,
            )
            for m in range(probes)
        ]
        return {k: jnp.stack([run[k] for run in runs], axis=1) for k in runs[0]}

    def collect(rows: dict[str, np.ndarray], seconds: float) -> ProbeTraces:
        n = len(rows["hess"])
        groups = np.arange(n) // examples.batch_size if fresh else np.zeros(n, int)
        return ProbeTraces(
            rows, groups, examples.order[:n], examples.population, seconds
        )

    def enough(rows: dict[str, np.ndarray]) -> bool:
        sofar = collect(rows, 0.0)
        if sofar.groups[-1] < 19:
            return False
        guess = sofar.estimate(measure, target=target)
        return Stop(rtol or 0.0, level).narrow(guess)

    start = time.perf_counter()
    rows = stream(
        kernel,
        examples,
        enough=None if rtol is None else enough,
    )
    return collect(rows, time.perf_counter() - start)

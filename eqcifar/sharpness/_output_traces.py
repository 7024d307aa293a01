"""The exact path: traces of the NTK and GGN from products with outputs."""

import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from eqcifar.errors import UsageError
from eqcifar.losses import AnyLoss, Loss, get_loss
from eqcifar.parallel import jit

from ._estimate import Estimate, Target, estimate_mean
from ._examples import Batch, Examples, stream
from ._gradient_norms import Tapped, footprint, gradient_norms, tappable
from ._memory import MEMORY
from ._network import Network, check_independent
from ._stopping import Stop


@dataclasses.dataclass(frozen=True)
class UnitLogits:
    """J' B B' J is the NTK's for logits divided by their standard deviation.

    Over the classes of each example, so that scaling the last layer changes nothing.
    Andriushchenko et al., 2023, https://arxiv.org/abs/2302.07011
    """

    def root_product(
        self,
        logits: Float[Array, " classes"],
        target: Int[Array, ""],
        vector: Float[Array, " classes"],
    ) -> Float[Array, " classes"]:
        """Multiply by the transposed Jacobian of the division."""
        return jax.vjp(lambda f: f / jnp.std(f), logits)[1](vector)[0]


# Multiplies by B_i.
Root = Loss | UnitLogits


@dataclasses.dataclass(frozen=True)
class OutputTraces:
    """Per-example traces of J_i' H_i J_i, and every way to add them up.

    **Attributes:**

    - `by_probe`: for each scaling, one row an example and one column an output
        direction (exact) or a random probe.
    - `by_leaf`, `by_leaf_variance`: the same summed (exact) or averaged over
        directions, for each parameter array, and the variance of that average.
    - `exact`: the columns are the C output directions, to be summed.
    - `leaves`, `labels`, `ids`: names of the parameter arrays; labels and positions
        in the split of the examples.
    - `label_counts`: how often each label occurs in the whole split.
    """

    by_probe: dict[str, Float[np.ndarray, "examples probes"]]
    by_leaf: dict[str, Float[np.ndarray, "examples leaves"]]
    by_leaf_variance: dict[str, Float[np.ndarray, "examples leaves"]]
    exact: bool
    leaves: tuple[str, ...]
    labels: Int[np.ndarray, " examples"]
    ids: Int[np.ndarray, " examples"]
    label_counts: Int[np.ndarray, " classes"]
    seconds: float

    def table(self, scaled: str = "plain") -> Float[np.ndarray, "examples probes"]:
        """Return unbiased per-example traces, one column when exact."""
        values = self.by_probe[scaled]
        return values.sum(axis=1, keepdims=True) if self.exact else values

    def per_example(self, scaled: str = "plain") -> Float[np.ndarray, " examples"]:
        """Return the trace of each example, in the order of `ids`."""
        return self.table(scaled).mean(axis=1)

    def estimate(self, scaled: str = "plain", *, target: Target = "split") -> Estimate:
        """Estimate the mean over examples: the trace itself."""
        estimate = self._mean(self.table(scaled), target, int(self.label_counts.sum()))
        return dataclasses.replace(
            estimate, matvecs=self.by_probe[scaled].size, seconds=self.seconds
        )

    def per_label(
        self, scaled: str = "plain", *, target: Target = "split"
    ) -> dict[int, Estimate]:
        """Estimate the mean over the examples of each label."""
        table = self.table(scaled)
        return {
            int(label): self._mean(
                table[self.labels == label], target, int(self.label_counts[label])
            )
            for label in np.unique(self.labels)
        }

    def per_leaf(
        self, scaled: str = "plain", *, target: Target = "split"
    ) -> dict[str, Estimate]:
        """Estimate what each parameter array adds to the trace."""
        n, size = len(self.ids), int(self.label_counts.sum())
        shares = {}
        for j, name in enumerate(self.leaves):
            share = self._mean(self.by_leaf[scaled][:, j : j + 1], target, size)
            probe = self.by_leaf_variance[scaled][:, j].sum() / n**2
            if not self.exact and self.by_probe[scaled].shape[1] > 1:
                exact = estimate_mean(
                    self.by_leaf[scaled][:, j : j + 1],
                    exact=True,
                    population=size,
                    target=target,
                )
                share = dataclasses.replace(exact, probe_error=float(np.sqrt(probe)))
            shares[name] = share
        return shares

    def shares(
        self, scaled: str = "plain", *, target: Target = "split"
    ) -> dict[str, Estimate]:
        """Estimate the parameter arrays' shares of the trace, which add up to 1.

        A share is a ratio of two means over the same examples; its error is that of
        the mean of q_ij - share_j q_i, over that of q_i (the delta method). The
        directions drawn for an example count into the spread over examples. Not a
        number where the trace is 0.
        """
        parts, size = self.by_leaf[scaled], int(self.label_counts.sum())
        whole = parts.sum(axis=1, keepdims=True)
        total = whole.mean()
        if not total > 0:
            return dict.fromkeys(self.leaves, Estimate(math.nan, math.nan))
        values = parts.mean(axis=0) / total
        rest = (parts - values * whole) / total
        return {
            name: self._mean(rest[:, j : j + 1], target, size).shift(float(values[j]))
            for j, name in enumerate(self.leaves)
        }

    def per_output(self, scaled: str = "plain") -> Float[np.ndarray, " outputs"]:
        """Return the mean of each output direction (classes, for the NTK)."""
        if not self.exact:
            raise UsageError("only the exact path (probes=0) tells outputs apart")
        return self.by_probe[scaled].mean(axis=0)

    def sharpest(
        self, count: int, scaled: str = "plain"
    ) -> list[tuple[int, int, float]]:
        """List (position in the split, label, trace) of the sharpest examples."""
        traces = self.per_example(scaled)
        order = np.argsort(-traces, kind="stable")[:count]
        return [
            (int(self.ids[i]), int(self.labels[i]), float(traces[i])) for i in order
        ]

    def _mean(self, table: np.ndarray, target: Target, size: int) -> Estimate:
        return estimate_mean(table, exact=self.exact, population=size, target=target)


def output_traces(
    network: Network, examples: Examples, loss: AnyLoss, **options: Any
) -> OutputTraces:
    """Compute tr(D J_i' H_i J_i D) of each example by vector-Jacobian products.

    H_i = d2l/df2 is the loss's Hessian in the logits and B_i B_i' = H_i. For `mse`
    H_i = I: the trace of the NTK (summed over classes), which is also that of the GGN,
    and of the Hessian where `curved_leaves` names no array.

    **Arguments:**

    - `options`: and the rest, see `shared_output_traces`.

    **Returns:**

    `OutputTraces`.
    """
    loss = get_loss(loss)
    roots = {loss.name: loss}
    return shared_output_traces(network, examples, roots, **options)[loss.name]


def shared_output_traces(
    network: Network,
    examples: Examples,
    roots: Mapping[str, Root],
    *,
    probes: int = 0,
    scaled: tuple[str, ...] = ("plain", "theta", "filter"),
    rtol: float | None = None,
    level: float = 0.95,
    target: Target = "split",
    memory: float = MEMORY,
    key: PRNGKeyArray | None = None,
) -> dict[str, OutputTraces]:
    """Compute tr(D J_i' B_i B_i' J_i D) of each example, for several B_i at once.

    From one linearisation of the network, and without the gradients: see
    `gradient_norms`. Exactly: sum_c ||D J_i' B_i e_c||^2 over the C unit vectors. At
    random: the mean of ||D J_i' B_i r||^2 over sign vectors r, fresh for each example,
    and the same for each B_i, which has the values that it has alone, to rounding.

    **Arguments:**

    - `examples`: visited in their order; for a stop by `rtol` that must be random
        (`examples.sample`).
    - `roots`: what multiplies by B_i, such as a `Loss`, by name.
    - `probes`: sign vectors an example; 0 for the exact sum over outputs.
    - `scaled`: names of D^2, see `scaling`; all come from one pass.
    - `rtol`: stop as soon as the interval reaches at most `rtol` times the value to
        either side (for the first scaling), after at least 50 examples; each B_i is
        told of as many examples as it takes alone.
    - `memory`: bytes for the passes; a smaller batch is taken if need be.
    - `key`: the source of the signs; each example's signs depend on the key and its
        position alone.

    **Returns:**

    `OutputTraces` by the names of `roots`.
    """
    if probes < 0:
        raise UsageError(f"{probes} probes: 0 (exact) or more are needed")
    first = examples.batch(0)
    check_independent(network, first.images)
    classes = network.classes(first.images)
    exact = probes == 0
    seed = None if exact else jax.random.key(0) if key is None else key
    count = classes if exact else probes
    tapped = tappable(network, first.images)
    each = footprint(network, first.images, tapped, len(roots) * count)
    examples = examples.within(memory, each)
    counts = np.bincount(np.asarray(examples.labels), minlength=classes)
    if len(counts) > classes:
        raise UsageError(f"label {len(counts) - 1} but only {classes} logits")
    units = jnp.arange(count, dtype=jnp.int32)

    def kernel(batch: Batch) -> dict[str, Array]:
        found = _norms(
            network, tuple(roots.values()), scaled, tapped, batch[1:4], units, seed
        )
        rows = {}
        for at, root in enumerate(roots):
            for name in scaled:
                runs = found[name][:, at]
                noise = runs.var(axis=1, ddof=1) / probes if probes > 1 else None
                rows |= {
                    f"{root}/{name}/probe": jnp.sum(runs, axis=2),
                    f"{root}/{name}/leaf": runs.sum(1) if exact else runs.mean(1),
                    f"{root}/{name}/noise": (
                        jnp.zeros_like(runs[:, 0]) if noise is None else noise
                    ),
                }
        return rows

    def collect(root: str, rows: dict[str, np.ndarray], seconds: float) -> OutputTraces:
        n = stops.get(root, len(rows[f"{root}/{scaled[0]}/probe"]))
        probe, leaf, noise = (
            {name: rows[f"{root}/{name}/{part}"][:n] for name in scaled}
            for part in ("probe", "leaf", "noise")
        )
        return OutputTraces(
            probe,
            leaf,
            noise,
            exact,
            network.leaves,
            examples.chosen_labels[:n].astype(np.int64),
            examples.order[:n],
            counts,
            seconds,
        )

    stops: dict[str, int] = {}

    def enough(rows: dict[str, np.ndarray]) -> bool:
        for root in roots.keys() - stops.keys():
            sofar = collect(root, rows, 0.0).estimate(scaled[0], target=target)
            if sofar.examples >= 50 and Stop(rtol or 0.0, level).narrow(sofar):
                stops[root] = sofar.examples
        return len(stops) == len(roots)

    start = time.perf_counter()
    rows = stream(
        kernel,
        examples,
        enough=None if rtol is None else enough,
    )
    seconds = time.perf_counter() - start
    return {root: collect(root, rows, seconds) for root in roots}


@jit
def _norms(
    network: Network,
    roots: tuple[Root, ...],
    scaled: tuple[str, ...],
    tapped: Tapped,
    batch: tuple[Array, Array, Array],
    units: Int[Array, " units"],
    key: PRNGKeyArray | None,
) -> dict[str, Float[Array, "batch roots units leaves"]]:
    def one(image: Array, label: Array, at: Array) -> dict[str, Array]:
        def cotangents(outputs: Array) -> Array:
            def direction(unit: Array) -> Array:
                if key is None:
                    return jax.nn.one_hot(unit, outputs.size, dtype=outputs.dtype)
                seed = jax.random.fold_in(jax.random.fold_in(key, unit), at)
                return jax.random.rademacher(seed, outputs.shape, outputs.dtype)

            directions = jax.vmap(direction)(units)
            each = [
                jax.vmap(lambda v, root=root: root.root_product(outputs, label, v))
                for root in roots
            ]
            return jnp.concatenate([times(directions) for times in each])

        norms = gradient_norms(network, image, cotangents, scaled, tapped)
        shape = len(roots), len(units)
        return {name: rows.reshape(*shape, -1) for name, rows in norms.items()}

    return jax.vmap(one)(*batch)

"""What to measure, and what a measure has found."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PRNGKeyArray, PyTree

from eqcifar.errors import UsageError
from eqcifar.losses import LOSSES, AnyLoss, get_loss

from ._draw import CUTS, estimate_fitted, is_sample, over_halves
from ._estimate import Estimate, Target, estimate_mean
from ._examples import Batch, Examples, stream
from ._lanczos import DEPTH, Eigen, eigenpairs, values_nearby
from ._landscape import as_direction
from ._memory import check_memory
from ._network import Network
from ._operator import Kind, Operator, operator
from ._output_traces import OutputTraces, Root, UnitLogits, shared_output_traces
from ._pieces import Rows, page, piece
from ._probe_traces import quadratic_forms
from ._radius import rises_at


@dataclasses.dataclass(frozen=True)
class Measured:
    """What one measure has found.

    - `values`: estimates by name.
    - `bounds`: of a value that is no mean, how far it may be from the truth on these
        very examples, beside the error of their draw.
    - `tables`: curves and shares, as JSON has them: lists of numbers and of records.
    """

    values: dict[str, Estimate]
    bounds: dict[str, float] = dataclasses.field(default_factory=dict)
    tables: dict[str, Any] = dataclasses.field(default_factory=dict)


# Whose traces: the Gauss-Newton part's of the loss, or the NTK's of logits as they are
# or of unit standard deviation.
Output = Literal["loss", "ntk", "unit"]


def _no_start() -> tuple[Any, Any]:
    raise UsageError("it is not known what training began with: give `start`")


@dataclasses.dataclass(frozen=True)
class Task:
    """What a measure computes on, and how: `measurements.compute_measure`.

    - `output`: of the measure at hand; `together`: of all that share a pass.
    """

    network: Network
    examples: Examples
    loss: AnyLoss
    probes: int
    top: int
    rtol: float | None
    target: Target
    memory: float
    key: PRNGKeyArray
    output: Output | None = None
    together: tuple[Output, ...] = ()
    # What training began with, its model and state.
    start: Callable[[], tuple[Any, Any]] = _no_start

    def sofar(self, rows: Rows) -> Estimate | None:
        """The trace so far, from the pieces of a pass that makes one."""
        first = rows[min(rows)] if rows else {}
        of_outputs = f"{self._name(self.output)}/plain/probe" if self.output else ""
        name = next((name for name in (of_outputs, "hess") if name in first), None)
        if name is None:
            return None
        table = np.concatenate([rows[index][name] for index in sorted(rows)])
        exact = name != "hess" and self.probes == 0
        if exact:
            table = table.sum(axis=1, keepdims=True)
        size = self.examples.population
        return estimate_mean(table, exact=exact, population=size)

    def outputs(self) -> OutputTraces:
        """Traces by vector-Jacobian products, from one pass for all of `together`."""
        roots: dict[str, Root] = {}
        for output in self.together or (self.output,):
            of_loss = LOSSES["mse"] if output == "ntk" else get_loss(self.loss)
            root = UnitLogits() if output == "unit" else of_loss
            roots[self._name(output)] = root
        with page("-".join(["outputs", *roots])):
            found = shared_output_traces(
                self.network,
                self.examples,
                roots,
                probes=self.probes,
                rtol=self.rtol,
                target=self.target,
                memory=self.memory,
                key=jax.random.fold_in(self.key, 0),
            )
        return found[self._name(self.output)]

    def _name(self, output: Output | None) -> str:
        # Of a squared error, the Gauss-Newton part's trace is the NTK's.
        of_mse = get_loss(self.loss).function is LOSSES["mse"].function
        return "ntk" if output == "loss" and of_mse else str(output)

    def operator(self, kind: Kind, before: int, total: int) -> Operator:
        """The Hessian or GGN, reporting each product out of `total`."""
        apply = operator(
            self.network, self.examples, self.loss, kind, memory=self.memory
        )
        return apply.counted(before, total)

    @property
    def pairs(self) -> int:
        """How many eigenpairs to find: a plane takes two."""
        return min(max(self.top, 2), self.network.size)

    @property
    def basis(self) -> float:
        """Bytes for a basis of vectors as large as the network."""
        return 4 * self.memory

    def steps(self, most: int, least: int) -> int:
        """How many steps of Lanczos: the most that a basis has room for."""
        room = int(self.basis // self.network.vector_bytes)
        return min(max(min(most, room), least), self.network.size)

    def steps_to(self, count: int) -> int:
        """The most steps that `leading` takes from one start."""
        return self.steps(100, 2 * count + 2)

    @property
    def is_sample(self) -> bool:
        """Whether the target is more than the images at hand."""
        return is_sample(self.examples, self.target) and len(self.examples) > 1

    def work(self, count: int) -> int:
        """About how many products `leading` and then `of_draw` take."""
        return self.steps_to(count) + self.work_of_draw(count)

    def work_of_draw(self, count: int) -> int:
        """How many products the error of the draw of so many eigenpairs takes."""
        return self.is_sample * 2 * CUTS * DEPTH * count

    def leading(
        self,
        kind: Kind,
        name: str,
        count: int,
        before: int = 0,
        total: int | None = None,
    ) -> Eigen:
        """The `count` largest eigenvalues, found once for all who ask by that name."""
        steps = self.steps_to(count)
        fewer = "take a smaller --top or " if count > 2 else ""
        check_memory(
            f"{count} eigenvalues",
            steps * self.network.vector_bytes,
            self.basis,
            f"{fewer}allow more memory",
            of=" of Lanczos vectors",
        )
        with page(name):
            return eigenpairs(
                self.operator(kind, before, total or before + steps),
                count,
                steps=steps,
                rtol=1e-3,
                basis_memory=self.basis,
                key=jax.random.fold_in(self.key, 0),
            )

    def nearby(
        self, examples: Examples, kind: Kind, vectors: Array, *work: int
    ) -> tuple[np.ndarray, Array]:
        """The eigenpairs of other examples' matrix near those of ours."""
        apply = operator(self.network, examples, self.loss, kind, memory=self.memory)
        return values_nearby(apply.counted(*work), vectors)

    def of_draw(
        self, kind: Kind, name: str, found: Eigen, before: int, total: int
    ) -> list[Estimate]:
        """Each eigenvalue, with the error of the draw of images."""
        count = len(found.values)
        table, halves = np.zeros((len(self.examples), count)), np.zeros((0, 2, count))
        if self.is_sample:
            table = self._forms(kind, f"{name}-forms", found.vectors)
            numbers = itertools.count()

            def find(half: Examples) -> np.ndarray:
                start = before + next(numbers) * DEPTH * count
                return self.nearby(half, kind, found.vectors, start, total)[0]

            with page(name):
                halves = over_halves(self.examples, find)
        return [
            dataclasses.replace(
                self.fitted(value, table[:, k], halves[..., k]),
                matvecs=found.matvecs,
                seconds=found.seconds,
            )
            for k, value in enumerate(found.values.tolist())
        ]

    def rises(
        self,
        name: str,
        directions: Sequence[PyTree],
        reach: float,
        examples: Examples | None = None,
    ) -> np.ndarray:
        """Each image's mean rise of the loss at `reach` along directions."""
        images = self.examples if examples is None else examples
        find = partial(rises_at, self.network, images, self.loss, directions, reach)
        with page(f"{name}-ends"):
            return piece(0, lambda: {"rise": find()})["rise"]

    def rises_of_halves(
        self, name: str, vectors: Array, reach: float, before: int, total: int
    ) -> np.ndarray:
        """The mean rise of each half of the images along eigenvectors of its own."""
        numbers = itertools.count()

        def find(half: Examples) -> np.ndarray:
            start = before + next(numbers) * DEPTH * len(vectors)
            own = self.nearby(half, "hess", vectors, start, total)[1]
            directions = [as_direction(self.network, vector) for vector in own]
            return np.asarray(self.rises(name, directions, reach, half).mean())

        with page(name):
            return over_halves(self.examples, find)

    def fitted(
        self, value: float, terms: np.ndarray, halves: np.ndarray | None = None
    ) -> Estimate:
        """A number of these images: see `estimate_fitted`."""
        return estimate_fitted(
            value,
            terms,
            np.zeros((0, 2)) if halves is None else halves,
            population=self.examples.population,
            target=self.target,
        )

    def _forms(self, kind: Kind, name: str, vectors: Array) -> np.ndarray:
        """v'A_i v of each image and vector."""
        unravel = ravel_pytree(self.network.params)[1]
        directions = [unravel(vector) for vector in vectors]
        loss = get_loss(self.loss)

        def kernel(batch: Batch) -> dict[str, Array]:
            forms = [
                quadratic_forms(self.network, loss, batch.images, batch.labels, v)[kind]
                for v in directions
            ]
            return {kind: jnp.stack(forms, axis=1)}

        with page(name, silent=True):
            return stream(kernel, self.examples)[kind]

"""What to measure, and what a measure has found."""

import dataclasses
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

from ._draw import Cuts, cuts_of, estimate_fitted, is_sample
from ._estimate import Estimate, Target, estimate_mean
from ._examples import Batch, Examples, stream
from ._lanczos import Eigen
from ._landscape import as_direction
from ._leading import Halves, eigenpairs_of_halves, eigenpairs_of_mean
from ._memory import check_memory
from ._network import Network
from ._operator import Kind, Operator, operator
from ._output_traces import OutputTraces, Root, UnitLogits, shared_output_traces
from ._pieces import Rows, page, piece, whole
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

    def mean_of(self, values: np.ndarray) -> Estimate:
        """The mean of a number an image, known without random vectors."""
        size, target = self.examples.population, self.target
        return estimate_mean(
            values[:, None], exact=True, population=size, target=target
        )

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
        return self._operator(kind, self.examples).counted(before, total)

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

    @property
    def is_sample(self) -> bool:
        """Whether the target is more than the images at hand."""
        return is_sample(self.examples, self.target) and len(self.examples) > 1

    @property
    def cuts(self) -> Cuts:
        """The images in groups, of which halves are made."""
        return cuts_of(self.network, self.examples)

    def work(self, count: int) -> int:
        """About how many products `leading` and then `of_draw` take."""
        return self.work_to(count) + self.work_of_draw(count)

    def work_to(self, count: int) -> int:
        """About how many products `leading` takes."""
        return 12 + 6 * count

    def work_of_draw(self, count: int) -> int:
        """How many products the error of the draw of so many eigenpairs takes."""
        return self.is_sample * count

    def leading(
        self,
        kind: Kind,
        name: str,
        count: int,
        before: int = 0,
        total: int | None = None,
    ) -> Eigen:
        """The `count` largest eigenvalues, found once for all who ask by that name."""
        steps = self.steps(100, 2 * count + 2)
        fewer = "take a smaller --top or " if count > 2 else ""
        check_memory(
            f"{count} eigenvalues",
            steps * self.network.vector_bytes,
            self.basis,
            f"{fewer}allow more memory",
            of=" of Lanczos vectors",
        )
        sizes, parts = self.cuts.sizes, [self.examples]
        if sizes.min() >= self.examples.batch_size / 2:
            parts = self.cuts.groups(self.examples)
        with page(name):
            return eigenpairs_of_mean(
                [self._operator(kind, part) for part in parts],
                np.asarray([len(part) / len(self.examples) for part in parts]),
                count,
                steps=steps,
                # Of a sample, these are nothing beside the error of the draw: a value's
                # own error goes with the square of the residual.
                rtol=self.rtol or (1e-2 if self.is_sample else 1e-3),
                precise=not self.is_sample,
                basis_memory=self.basis,
                work=(before, total or before + self.work_to(count)),
                key=jax.random.fold_in(self.key, 0),
            )

    def halves(
        self, kind: Kind, found: Eigen, count: int, before: int, total: int
    ) -> Halves:
        """The eigenpairs of halves of the images near those of all."""
        work, shares = (before, total), self.cuts.shares
        groups = self.cuts.groups(self.examples)
        parts = [self._operator(kind, group) for group in groups]
        return eigenpairs_of_halves(parts, shares, found, count, work=work)

    def of_draw(
        self, kind: Kind, name: str, found: Eigen, before: int, total: int
    ) -> list[Estimate]:
        """Each eigenvalue, with the error of the draw of images."""
        count = len(found.values)
        table, halves = np.zeros((len(self.examples), count)), np.zeros((0, 2, count))
        if self.is_sample:
            table = self._forms(kind, f"{name}-forms", found.vectors)

            def find() -> dict[str, np.ndarray]:
                return {"found": self.halves(kind, found, count, before, total).values}

            with page(f"{name}-halves"):
                halves = whole(find)["found"]
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
        self, name: str, found: Eigen, count: int, reach: float, before: int, total: int
    ) -> np.ndarray:
        """The mean rise of each half of the images along eigenvectors of its own."""
        sides = self.cuts.sides

        def find() -> dict[str, np.ndarray]:
            near, rises = self.halves("hess", found, count, before, total), []
            for at in np.ndindex(*sides.shape[:2]):
                half = self.cuts.half(self.examples, sides[at])
                directions = [as_direction(self.network, v) for v in near.vectors(*at)]
                label = "-".join([name, *map(str, at)])
                rises.append(self.rises(label, directions, reach, half).mean())
            return {"found": np.reshape(rises, (-1, 2))}

        with page(f"{name}-halves"):
            return whole(find)["found"]

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

    def _operator(self, kind: Kind, examples: Examples) -> Operator:
        return operator(self.network, examples, self.loss, kind, memory=self.memory)

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

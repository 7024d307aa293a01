"""What to measure, and what a measure has found."""

import dataclasses
import math
from collections.abc import Callable, MutableMapping
from typing import Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from ._estimate import Estimate, Target, estimate_mean
from ._examples import Examples, Rows
from ._lanczos import Eigen, eigenpairs
from ._losses import Loss
from ._memory import check_memory
from ._network import Network
from ._operator import Kind, Operator, operator
from ._output_traces import OutputTraces, output_traces

# Work done, the whole, and what gives the estimate so far, called when it is shown.
Report = Callable[[int, int, Callable[[], Estimate | None]], None]


@dataclasses.dataclass(frozen=True)
class Measured:
    """What one measure has found.

    - `values`: estimates by name.
    - `bounds`: of a value that is no mean, how far it may be from the truth on these
        very examples.
    - `tables`: curves and shares, as JSON has them: lists of numbers and of records.
    """

    values: dict[str, Estimate]
    bounds: dict[str, float] = dataclasses.field(default_factory=dict)
    tables: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Task:
    """What to measure on, and how; see `measure`."""

    network: Network
    examples: Examples
    loss: str | Loss
    probes: int
    top: int
    rtol: float | None
    target: Target
    memory: float
    key: PRNGKeyArray
    rows: MutableMapping[str, Rows]
    report: Report

    def passes(self, name: str) -> Rows:
        """The pieces of a pass, empty unless it was interrupted."""
        return self.rows.setdefault(name, {})

    def follow(self, rows: Rows) -> Callable[[int, int], None]:
        """Report on a pass with the estimate so far."""

        def sofar() -> Estimate | None:
            if not rows:
                return None
            first = rows[min(rows)]
            name = "plain/probe" if "plain/probe" in first else "hess"
            table = np.concatenate([rows[index][name] for index in sorted(rows)])
            exact = name != "hess" and self.probes == 0
            if exact:
                table = table.sum(axis=1, keepdims=True)
            size = self.examples.population
            return estimate_mean(table, exact=exact, population=size)

        return lambda done, total: self.report(done, total, sofar)

    def count(self, done: int, total: int) -> None:
        """Report on steps that have no estimate on the way."""
        self.report(done, total, lambda: None)

    def outputs(self, network: Network, loss: str | Loss, name: str) -> OutputTraces:
        """One pass of vector-Jacobian products."""
        rows = self.passes(name)
        return output_traces(
            network,
            self.examples,
            loss,
            probes=self.probes,
            rtol=self.rtol,
            target=self.target,
            memory=self.memory,
            # The key of the trace's pass: under `mse` the two are one.
            key=jax.random.fold_in(self.key, 0),
            done=rows,
            report=self.follow(rows),
        )

    def operator(self, kind: Kind, before: int, total: int) -> Operator:
        """The Hessian or GGN, reporting each product out of `total`."""
        apply = operator(
            self.network, self.examples, self.loss, kind, memory=self.memory
        )
        return apply.counted(self.count, before, total)

    @property
    def pairs(self) -> int:
        """How many eigenpairs to find: a plane takes two."""
        return max(self.top, 2)

    @property
    def basis(self) -> float:
        """Bytes for a basis of vectors as large as the network."""
        return 4 * self.memory

    def steps(self, most: int, least: int) -> int:
        """How many steps of Lanczos: the most that a basis has room for."""
        room = int(self.basis // self.network.vector_bytes)
        return min(max(min(most, room), least), self.network.size)

    def steps_to(self, count: int) -> int:
        """The most steps that `leading` takes."""
        return self.steps(100, 2 * count + 2)

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
        return eigenpairs(
            self.operator(kind, before, total or before + steps),
            min(count, steps),
            steps=steps,
            rtol=1e-3,
            basis_memory=self.basis,
            key=jax.random.fold_in(self.key, 0),
            done=self.passes(name),
        )

    def single(self, value: float, matvecs: int = 0, seconds: float = 0.0) -> Estimate:
        """A number of these examples, whose error nothing tells."""
        return Estimate(
            value,
            probe_error=math.nan,
            examples=len(self.examples),
            matvecs=matvecs,
            seconds=seconds,
        )

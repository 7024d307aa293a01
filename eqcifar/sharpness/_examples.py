"""The examples that a measure averages over, and the one loop that visits them."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from eqcifar.errors import RunError, UsageError

from ._pieces import Rows, page, tell


class Batch(NamedTuple):
    """A batch of fixed size; `weights` is 0 and `size` ends where padding begins."""

    number: int
    images: Float[Array, "batch ..."]
    labels: Int[Array, " batch"]
    ids: Int[Array, " batch"]
    weights: Float[Array, " batch"]
    size: int


def _identity(images: Any) -> Any:
    return images


@dataclasses.dataclass(frozen=True)
class Examples:
    """Images and labels of a split, or of a sample of it.

    **Attributes:**

    - `images`: anything indexed by an integer array, such as uint8 `(n, h, w, 3)`.
    - `labels`: integers, shape `(n,)`.
    - `prepare`: from a batch of images to what the network sees, such as
        `data.normalise`; applied on the device, batch by batch.
    - `place`: puts a batch on the device or mesh; the batch size must then be a
        multiple of the number of devices.
    - `batch_size`: examples on the device at a time.
    - `devices`: what `batch_size` is to remain a multiple of.
    - `ids`: the positions visited, in order; by default all of them.
    """

    images: Any
    labels: Any
    prepare: Callable[[Any], Any] = _identity
    place: Callable[[Any], Any] = jnp.asarray
    batch_size: int = 128
    devices: int = 1
    ids: Int[np.ndarray, " chosen"] | None = None

    def __post_init__(self):
        if len(self.images) != len(self.labels):
            raise UsageError(f"{len(self.images)} images but {len(self.labels)} labels")
        if len(self) == 0:
            raise UsageError("there are no examples to measure on")
        if self.batch_size < 1:
            raise UsageError("the batch size must be at least 1")

    def __len__(self) -> int:
        return len(self.order)

    @property
    def order(self) -> Int[np.ndarray, " chosen"]:
        """The positions in the split, in the order of the results."""
        return np.arange(len(self.labels)) if self.ids is None else self.ids

    @property
    def chosen_labels(self) -> Int[np.ndarray, " chosen"]:
        """The labels in the order of the results."""
        return np.asarray(self.labels)[self.order]

    @property
    def population(self) -> int:
        """The size of the whole split."""
        return len(self.labels)

    def take(self, ids: Int[np.ndarray, " chosen"]) -> "Examples":
        """Keep the examples at these positions of the split, in this order."""
        return dataclasses.replace(self, ids=ids)

    def sample(self, count: int, seed: int = 0) -> "Examples":
        """Draw `count` of the examples at random without replacement (0: keep all)."""
        if count == 0:
            return self
        if not 0 < count <= len(self):
            raise UsageError(f"cannot draw {count} of {len(self)} examples")
        order = np.random.default_rng(seed).permutation(len(self))
        return self.take(self.order[order[:count]])

    def halves(self, seed: int = 0) -> tuple["Examples", "Examples"]:
        """Cut into two random halves (the second one longer by one at most)."""
        order = self.order[np.random.default_rng(seed).permutation(len(self))]
        if len(order) < 2:
            raise UsageError("one example cannot be cut into halves")
        return self.take(order[: len(order) // 2]), self.take(order[len(order) // 2 :])

    def with_batch_size(self, batch_size: int) -> "Examples":
        """Change the number of examples on the device at a time."""
        return dataclasses.replace(self, batch_size=batch_size)

    def within(self, memory: float, each: float) -> "Examples":
        """Put no more on the device at a time than fit `memory`, at `each` bytes."""
        most = int(memory // (each * self.devices)) * self.devices
        if most < 1:
            raise UsageError(
                f"one example takes {each / 1e9:.2g} GB, more than the "
                f"{memory / self.devices / 1e9:.2g} GB allowed on a device: allow more "
                "memory"
            )
        # In equal parts, lest the last one be mostly padding.
        parts = -(-self.batch_size // most) * self.devices
        return self.with_batch_size(-(-self.batch_size // parts) * self.devices)

    @property
    def batch_count(self) -> int:
        """The number of batches, the ragged one included."""
        return -(-len(self) // self.batch_size)

    def batch(self, index: int) -> Batch:
        """Return batch `index`, the last one padded with its first example."""
        ids = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        size = len(ids)
        # A split smaller than a batch needs no padding to keep shapes equal, but a
        # mesh does need the full width.
        ids = np.concatenate([ids, np.full(self.batch_size - size, ids[0])])
        images = self.prepare(self.place(self.images[ids]))
        weights = (np.arange(len(ids)) < size).astype(images.dtype)
        return Batch(
            index,
            images,
            self.place(np.asarray(self.labels)[ids].astype(np.int32)),
            self.place(ids.astype(np.int32)),
            self.place(weights),
            size,
        )

    def batches(self) -> Iterator[Batch]:
        """Visit every example once."""
        return (self.batch(index) for index in range(self.batch_count))


def stream(
    kernel: Callable[[Batch], dict[str, Array]],
    examples: Examples,
    *,
    enough: Callable[[dict[str, np.ndarray]], bool] | None = None,
) -> dict[str, Float[np.ndarray, "seen ..."]]:
    """Collect a kernel's per-example rows over the batches, as float64 on the host.

    Batches do not know of each other, so a pass that was interrupted and goes on from
    its pieces, a batch each, returns the same bits as one that was not.

    **Arguments:**

    - `kernel`: from a batch to arrays with a row an example.
    - `enough`: asked now and then (each time the examples seen have grown by a
        tenth) with the rows so far; the pass ends when it answers true.

    **Returns:**

    The rows in the order of the examples.

    **Raises:**

    `RunError` when a row is not finite.
    """
    with page("") as done:
        return _stream(kernel, examples, enough, done)


def _stream(
    kernel: Callable[[Batch], dict[str, Array]],
    examples: Examples,
    enough: Callable[[dict[str, np.ndarray]], bool] | None,
    done: Rows,
) -> dict[str, np.ndarray]:
    seen, asked, waiting = 0, 0, None
    for index in range(examples.batch_count + 1):
        # The next batch is dispatched before the rows of this one are fetched.
        ahead = None
        if index < examples.batch_count and index not in done:
            batch = examples.batch(index)
            ahead = batch.number, batch.size, kernel(batch)
        if waiting is not None:
            at, size, rows = waiting
            rows = {k: np.asarray(v, dtype=np.float64)[:size] for k, v in rows.items()}
            if not all(np.isfinite(v).all() for v in rows.values()):
                raise RunError(
                    f"batch {at} gave values that are not finite: the parameters have "
                    "diverged or the inputs are not normalised"
                )
            done[at] = rows
        waiting = ahead
        if index == 0:
            continue
        seen = min(index * examples.batch_size, len(examples))
        tell(seen, len(examples))
        if enough is not None and seen >= 1.1 * asked:
            asked = seen
            if enough(_concatenate(done, index)):
                return _concatenate(done, index)
    return _concatenate(done, examples.batch_count)


def _concatenate(done: Rows, count: int) -> dict[str, np.ndarray]:
    return {
        name: np.concatenate([done[index][name] for index in range(count)])
        for name in done[0]
    }

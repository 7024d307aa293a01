"""The only file that knows devices and hosts.

Training is data-parallel: parameters and data are replicated, and the batch axis is
split over one mesh axis. Everything runs under `jax.jit`, so a computation means the
same on any number of devices; only the order of summation differs.
"""

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Callable
from functools import cache, cached_property, update_wrapper
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax._src import distributed
from jax.core import Tracer
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from .errors import RunError, UsageError

_Tree = TypeVar("_Tree")
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_MOST_MAPS = 0.5
_SIGNS, _LEFT, _SILENCE = "eqcifar/signs/", "left", 20.0


def initialise(
    coordinator: str | None = None,
    processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Join the other processes of a multi-host run; call before any computation.

    **Arguments:**

    - `coordinator`: address `host:port` of process 0; read from the cluster's
        environment (SLURM, Open MPI, Cloud TPU, GKE) if not given.
    - `processes`, `process_id`: likewise.

    **Raises:**

    `UsageError` when no cluster is found, or when SLURM gave this task more GPUs than
    JAX would use: under SLURM, JAX takes one GPU a task.
    """
    tasks_gpus = os.environ.get("SLURM_GPUS_ON_NODE", "1")
    if "SLURM_LOCALID" in os.environ and tasks_gpus.isdigit():
        tasks_here = os.environ.get("SLURM_NTASKS_PER_NODE", tasks_gpus)
        if tasks_here.isdigit() and int(tasks_here) < int(tasks_gpus):
            raise UsageError(
                f"SLURM gave this node {tasks_gpus} GPUs but {tasks_here} task(s), and "
                "each task uses one GPU: ask for --ntasks-per-node equal to the GPUs"
            )
    try:
        jax.distributed.initialize(
            coordinator, processes, process_id, initialization_timeout=120
        )
    except ValueError as error:
        raise UsageError(
            "no cluster found to distribute over: start with srun or mpirun, or name "
            f"the coordinator's address, the number of processes and this one ({error})"
        ) from error


def watch_others(lost: Callable[[list[int]], None]) -> Callable[[], None]:
    """Call `lost`, from a thread, when other processes have ended or hang.

    A computation with a process that is no more waits for it, on GPUs for ever. So each
    process gives a sign of life every second; without one for 20 s it counts as lost.

    **Arguments:**

    - `lost`: takes the numbers of the lost processes; called once.

    **Returns:**

    What ends the watch, and tells the others that this process is not lost when it is
    silent from then on.
    """
    client = distributed.global_state.client
    return (lambda: None) if client is None else _Watch(client, lost).leave


class _Watch:
    def __init__(self, client: Any, lost: Callable[[list[int]], None]):
        self._client, self._lost = client, lost
        self._last: dict[str, tuple[str, float]] = {}
        self._heard = time.monotonic()
        self._left = threading.Event()
        # Two, for what asks process 0 waits where that one hangs.
        self._giver, checker = (
            threading.Thread(target=work, daemon=True)
            for work in (self._give_signs, self._check)
        )
        self._giver.start()
        checker.start()

    def leave(self):
        self._left.set()
        self._giver.join(_SILENCE)

    def _give_signs(self):
        own = f"{_SIGNS}{jax.process_index()}"
        for number in itertools.count():
            leaving = self._left.is_set()
            sign = _LEFT if leaving else str(number)
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                self._client.key_value_set(own, sign, allow_overwrite=True)
                signs = self._client.key_value_dir_get(_SIGNS)
                self._heard = time.monotonic()
                for name, sign in signs:
                    if self._last.get(name, ("", 0.0))[0] != sign:
                        self._last[name] = sign, self._heard
            if leaving:
                return
            self._left.wait(1)

    def _check(self):
        silent: list[int] = []
        while not silent:
            if self._left.wait(1):
                return
            # Process 0 keeps the signs of all.
            if time.monotonic() - self._heard > _SILENCE:
                silent = [0]
            else:
                silent = sorted(
                    int(name.removeprefix(_SIGNS))
                    for name, (sign, heard) in [*self._last.items()]
                    if sign != _LEFT and self._heard - heard > _SILENCE
                )
        self._lost(silent)


def is_lost_connection(error: BaseException) -> bool:
    """Whether a computation failed because another process has ended."""
    words = "Gloo", "NCCL", "Connection closed by peer", "Connection reset by peer"
    return jax.process_count() > 1 and any(word in str(error) for word in words)


def find_devices() -> list[Any]:
    """All devices of all processes; what starts JAX.

    **Raises:**

    `UsageError` when the platform that `JAX_PLATFORMS` names, or any, does not start.
    """
    try:
        return jax.devices()
    except (AssertionError, RuntimeError) as error:
        # An assertion is what JAX has for a platform whose plug-in is not installed.
        reason = " ".join(str(error).split()) or "its plug-in is not installed"
        asked = jax.config.values["jax_platforms"]
        problem = "JAX finds no device that it can use: set JAX_PLATFORMS=cpu"
        if asked:
            problem = f"JAX_PLATFORMS is {asked!r}, which JAX cannot use here: unset it"
        raise UsageError(
            f"{problem}, or see what `eqcifar doctor` says ({reason})"
        ) from error


def make_mesh(devices: int | None = None) -> Mesh:
    """A mesh with one axis, over which batches are split.

    **Arguments:**

    - `devices`: how many devices; all by default.

    **Raises:**

    `UsageError` when there are fewer devices.
    """
    found = find_devices()
    available = len(found)
    count = available if devices is None else devices
    if not 1 <= count <= available:
        raise UsageError(f"{count} devices asked for, but there are {available}")
    return jax.make_mesh(
        (count,),
        ("data",),
        axis_types=(AxisType.Auto,),
        devices=found[:count],
    )


# Neither is documented by XLA, so that any version may lack them.
_CPU_OPTIONS: dict[str, Any] = {
    "xla_cpu_experimental_ynn_fusion_type": "",
    "xla_disable_hlo_passes": "cse_barrier_expander",
}


def compiler_options() -> dict[str, Any]:
    """What XLA is told for the processors at hand, for `jax.jit`.

    On CPUs, convolutions by Eigen, as YNNPACK takes longer for the gradients of narrow
    networks and for evaluation, and barriers that last until operations are fused, for
    which `models.Conv2d` and rematerialisation have use. Options that this XLA does not
    have are left out.

    **Returns:**

    Names and values of options; none on other devices.
    """
    if jax.default_backend() != "cpu":
        return {}
    return {name: x for name, x in _CPU_OPTIONS.items() if _accepts(name, x)}


@cache
def _accepts(name: str, value: Any) -> bool:
    """Whether XLA compiles with an option, asked by the smallest of programs."""
    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


class jit(Generic[_Arguments, _Result]):
    """`eqx.filter_jit` with `compiler_options`, which wait for the first call."""

    def __init__(self, function: Callable[_Arguments, _Result], **options: Any):
        """Take what `eqx.filter_jit` takes."""
        self.function, self.options = function, options
        update_wrapper(self, function)

    @cached_property
    def compiled(self) -> Any:
        """The function as Equinox compiles it."""
        filter_jit: Any = eqx.filter_jit
        return filter_jit(
            self.function, compiler_options=compiler_options(), **self.options
        )

    def __call__(self, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        """Compile where called; within another compilation, be a part of it."""
        leaves = jax.tree.leaves((args, kwargs))
        if any(isinstance(leaf, Tracer) for leaf in leaves):
            return self.function(*args, **kwargs)
        return self.compiled(*args, **kwargs)

    def lower(self, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Any:
        """As that of `eqx.filter_jit`."""
        return self.compiled.lower(*args, **kwargs)


def bound_programs() -> None:
    """Forget all compiled programs when they use half of the process's memory maps.

    Each program for CPUs takes some maps, of which Linux by default allows 65,530; XLA
    ends in a segmentation fault at the next one. For what compiles for hours, between
    its pieces.
    """
    with contextlib.suppress(OSError):
        most = int(Path("/proc/sys/vm/max_map_count").read_text())
        used = Path("/proc/self/maps").read_bytes().count(b"\n")
        if used > most * _MOST_MAPS:
            jax.clear_caches()


def replicate(tree: _Tree, mesh: Mesh) -> _Tree:
    """Put a copy of every array of `tree` on each device, random keys included."""
    arrays, rest = eqx.partition(tree, eqx.is_array)
    # Keys as numbers: JAX puts none of them on the devices of other processes.
    numbers = jax.tree.map(
        lambda x: jax.random.key_data(x) if _is_key(x) else x, arrays
    )
    copies = jax.device_put(numbers, NamedSharding(mesh, PartitionSpec()))
    copies = jax.tree.map(
        lambda copy, x: (
            jax.random.wrap_key_data(copy, impl=jax.random.key_impl(x))
            if _is_key(x)
            else copy
        ),
        copies,
        arrays,
    )
    return eqx.combine(copies, rest)


def _is_key(array: Array) -> bool:
    return jnp.issubdtype(array.dtype, jax.dtypes.prng_key)


def split_batch(tree: _Tree, mesh: Mesh) -> _Tree:
    """Inside `jit`: split every array of `tree` along its first axis over devices."""
    return eqx.filter_shard(tree, NamedSharding(mesh, PartitionSpec("data")))


def gather(tree: _Tree, mesh: Mesh) -> _Tree:
    """Inside `jit`: collect every array of `tree` on each device."""
    return eqx.filter_shard(tree, NamedSharding(mesh, PartitionSpec()))


def check_batch(batch_size: int, mesh: Mesh) -> None:
    """Refuse a batch that the devices cannot share evenly.

    **Raises:**

    `UsageError` naming numbers of devices that would do.
    """
    if batch_size % mesh.size:
        fits = [n for n in range(1, mesh.size) if batch_size % n == 0]
        raise UsageError(
            f"a batch of {batch_size} does not divide over {mesh.size} devices: choose "
            f"a multiple of {mesh.size}, or --devices {fits[-1]}"
        )


def peak_memory(mesh: Mesh) -> int | None:
    """Most bytes in use so far on one of this process's devices.

    `None` where the backend does not count them, as on the CPU.
    """
    stats = [device.memory_stats() or {} for device in mesh.local_devices]
    peaks = [each["peak_bytes_in_use"] for each in stats if "peak_bytes_in_use" in each]
    return max(peaks, default=None)


def memory_limit(mesh: Mesh) -> int | None:
    """Bytes that computations may hold on each device of this process.

    On the CPU, its devices' share of the memory of the host or the container. `None`
    where that is not known.
    """
    device = mesh.local_devices[0]
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_limit")
    limits = []
    with contextlib.suppress(OSError, ValueError, AttributeError):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    # "max" where the container has no limit of its own.
    with contextlib.suppress(OSError, ValueError):
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(limits) // len(mesh.local_devices) if limits else None


def is_main_process() -> bool:
    """Whether this process writes files and prints."""
    return jax.process_index() == 0


def any_process(flag: bool) -> bool:
    """Whether `flag` holds on any process; all processes must call it."""
    return bool(highest(int(flag)))


def highest(number: int) -> int:
    """The largest of a number over all processes; all processes must call it."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.process_allgather(jnp.asarray(number, jnp.int32)).max())


def texts_of_all(text: str) -> list[str]:
    """A text of each process, in their order; all processes must call it."""
    if jax.process_count() == 1:
        return [text]
    own = text.encode()
    padded = np.zeros(highest(len(own)), np.uint8)
    padded[: len(own)] = np.frombuffer(own, np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [bytes(row).rstrip(b"\0").decode() for row in rows]


def everywhere(action: Callable[[], _Result]) -> _Result:
    """Do something on every process; where one fails, none goes on alone.

    **Returns:**

    What `action` returns here.

    **Raises:**

    What `action` raises here, or `RunError` when it has failed on another process.
    """
    result = error = None
    try:
        result = action()
    except Exception as raised:
        error = raised
    if any_process(error is not None):
        raise error or RunError("another process failed: its own line says why")
    return result  # pyright: ignore

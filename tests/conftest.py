import os
import tempfile

# Read when jax is imported: the tests never use an accelerator, and share what they
# compile among all their processes, also those of later runs.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.join(
    tempfile.gettempdir(), f"eqcifar-tests-{os.getuid()}"
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["HF_HUB_OFFLINE"] = "1"
# The compiler's optimisation takes longer than most of what it would make quicker.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax  # noqa: E402
import pytest  # noqa: E402
from jax._src import compiler  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_num_cpu_devices", 8)

_read = compiler._cache_read


def _read_unless_shared(name, key, options, backend, devices):
    # A CPU program for several devices forgets, when it is read again, in which order
    # its collectives go; two devices that begin with different ones wait for ever.
    return (
        (None, None)
        if len(devices) > 1
        else _read(name, key, options, backend, devices)
    )


compiler._cache_read = _read_unless_shared


@pytest.fixture(autouse=True)
def _keep_compiling_once():
    """What a command in this process does for eight devices, see above."""
    yield
    jax.config.update("jax_enable_compilation_cache", True)


@pytest.fixture(autouse=True, scope="module")
def _bound_programs():
    """All tests of a process together compile more than Linux lets it keep."""
    from eqcifar import parallel  # not before pytest's hook that checks its types

    yield
    parallel.bound_programs()


@pytest.fixture
def x64():
    """Compute in float64 within one test."""
    with jax.enable_x64(True):
        yield

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

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture
def x64():
    """Compute in float64 within one test."""
    with jax.enable_x64(True):
        yield

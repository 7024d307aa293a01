import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .. import __version__

_LIBRARIES = "jax", "jaxlib", "equinox", "optax", "numpy"


_VARIABLES = "XLA_FLAGS", "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE"


_OPTIONS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
)


def environment(
    devices: int, *, grad_accum: int = 1, remat: bool = False
) -> dict[str, Any]:
    """What can change the digits of a run besides its configuration.

    `flags` has what XLA is told by environment variables, by JAX's options and by
    `parallel.compiler_options`.

    **Arguments:**

    - `devices`: how many the run uses.
    - `grad_accum`, `remat`: see `eqcifar.training.fit`.

    **Returns:**

    `versions`, `devices`, `flags` and `git`, the commit of this package's source,
    which is `None` when it was installed from elsewhere. Bits are promised to be the
    same only where `versions`, `devices` and `flags` are.
    """
    import jax

    from ..parallel import compiler_options

    device = jax.devices()[0]
    flags = {name: os.environ.get(name, "") for name in _VARIABLES}
    flags |= {name: getattr(jax.config, name) for name in _OPTIONS}
    flags |= compiler_options()
    # Not named while they are off, as by versions that had them not.
    flags |= {"grad_accum": grad_accum} if grad_accum > 1 else {}
    flags |= {"remat": True} if remat else {}
    return {
        "versions": {
            "python": platform.python_version(),
            "eqcifar": __version__,
            **{name: version(name) for name in _LIBRARIES},
        },
        "devices": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": devices,
            "processes": jax.process_count(),
            "cpus": _cpus(),
        },
        "flags": flags,
        "git": _git_commit(),
    }


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Each version, device property and flag that is no longer the same."""
    found = []
    for section in ("versions", "devices", "flags"):
        before, now = old.get(section, {}), new.get(section, {})
        for name in sorted({*before, *now}):
            if before.get(name) != now.get(name):
                found.append(f"{name} {before.get(name)} -> {now.get(name)}")
    return found


def _cpus() -> int:
    # On the CPU, the number of cores decides how sums are split.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _git_commit() -> str | None:
    package = Path(__file__).parent

    def git(*arguments):
        return subprocess.run(
            ["git", "-C", package, *arguments],
            capture_output=True,
            check=True,
            text=True,
            timeout=10,
        ).stdout.strip()

    try:
        # An installed package may lie inside another repository.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None

import dataclasses
import os
import subprocess
from collections.abc import Mapping

from ..errors import UsageError


@dataclasses.dataclass(frozen=True)
class Slot:
    """A place for one run at a time: what to call it, and the environment it needs."""

    name: str = ""
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)


def find_gpus(environ: Mapping[str, str] = os.environ) -> list[str]:
    """The NVIDIA GPUs that a process started now would see, without starting JAX.

    **Arguments:**

    - `environ`: the environment that the process would have.

    **Returns:**

    Their numbers or names, as `CUDA_VISIBLE_DEVICES` takes them.
    """
    if environ.get("JAX_PLATFORMS", "").lower() in ("cpu", "tpu"):
        return []
    if "CUDA_VISIBLE_DEVICES" in environ:
        names = environ["CUDA_VISIBLE_DEVICES"].split(",")
        return [name.strip() for name in names if name.strip() not in ("", "-1")]
    try:
        listing = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            check=True,
            text=True,
            timeout=60,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return listing.split()


def make_slots(
    jobs: int | None = None,
    per_device: int | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
) -> list[Slot]:
    """Where the runs of a sweep can be on this machine.

    **Arguments:**

    - `jobs`: at most so many at a time; by default as many as the GPUs hold, and one
        on a machine without.
    - `per_device`: how many share a GPU, each with its part of 90 % of the memory; 1 by
        default.

    **Returns:**

    A slot for each run that can be at work.

    **Raises:**

    `UsageError` for `per_device` where there is no GPU.
    """
    gpus = find_gpus(environ)
    if not gpus:
        if per_device is not None:
            raise UsageError("no NVIDIA GPU is visible here: use --jobs instead")
        return [Slot()] * (jobs or 1)
    per_device = per_device or 1
    share = environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{0.9 / per_device:.3g}")
    slots = [
        Slot(
            f"GPU {gpu}",
            {"CUDA_VISIBLE_DEVICES": gpu, "XLA_PYTHON_CLIENT_MEM_FRACTION": share},
        )
        for _ in range(per_device)
        for gpu in gpus
    ]
    return slots[:jobs]

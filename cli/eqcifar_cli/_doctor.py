import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer

from ._jax import MOST_BYTES, compilation_folder
from ._output import format_bytes, print_json, say

_PACKAGES = "eqcifar", "jax", "jaxlib", "equinox", "optax", "datasets"
_VARIABLES = (
    "HF_HUB_OFFLINE",
    "HF_DATASETS_OFFLINE",
    "HF_HOME",
    "EQCIFAR_CACHE",
    "JAX_COMPILATION_CACHE_DIR",
    "JAX_COMPILATION_CACHE_MAX_SIZE",
    "JAX_ENABLE_COMPILATION_CACHE",
    "JAX_PLATFORMS",
    "XLA_FLAGS",
    "CUDA_VISIBLE_DEVICES",
)
_ENOUGH_SPACE = 2**30


@dataclass(frozen=True)
class Finding:
    """One thing looked at, and what to do about it if it is wrong."""

    subject: str
    found: str
    remedy: str = ""


def doctor(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for results to look at.")
    ] = Path("results"),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of lines.")
    ] = False,
):
    """Say what devices, versions and caches there are, and what to mend.

    Exits with 1 if there is something to mend.
    """
    findings = [*_versions(), *_devices(), *_caches(), *_variables(), *_folder(out)]
    wrong = [finding for finding in findings if finding.remedy]
    if as_json:
        print_json([vars(finding) for finding in findings])
    else:
        width = max(len(finding.subject) for finding in findings)
        for finding in findings:
            mark = "MEND" if finding.remedy else "ok  "
            line = f"{mark}  {finding.subject:<{width}}  {finding.found}"
            say(line, indent=" " * 6)
            if finding.remedy:
                say(f"      {'':<{width}}  -> {finding.remedy}", indent=" " * 6)
        say(f"{len(wrong)} to mend." if wrong else "Nothing to mend.")
    if wrong:
        raise typer.Exit(1)


def _versions() -> Iterator[Finding]:
    yield Finding("python", f"{platform.python_version()} on {platform.platform()}")
    for package in _PACKAGES:
        try:
            yield Finding(package, version(package))
        except PackageNotFoundError:
            yield Finding(package, "missing", f"pip install {package}")
    try:
        import PIL

        yield Finding("pillow", PIL.__version__)
    except ImportError:
        yield Finding("pillow", "missing", 'pip install "datasets[vision]"')


def _devices() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    yield Finding("CPU cores", str(cores or os.cpu_count()))
    gpus = _nvidia_gpus()
    for name, driver in gpus:
        yield Finding("GPU", f"{name}, driver {driver}")
    try:
        import jax

        devices = jax.devices()
    except Exception as error:
        # Whatever a plug-in raises when it cannot start.
        reason = " ".join(str(error).split())
        remedy = "check the driver, or set JAX_PLATFORMS=cpu to go on without"
        if asked := os.environ.get("JAX_PLATFORMS"):
            remedy = f"JAX_PLATFORMS asks for {asked}: unset it, or set it to cpu"
        yield Finding("devices", reason[:300] or type(error).__name__, remedy)
        return
    kinds = [device.device_kind for device in devices]
    counts = ", ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds))
    platform_name = devices[0].platform
    unused = gpus and platform_name == "cpu"
    remedy = ""
    if unused and os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        remedy = "JAX_PLATFORMS keeps JAX off the GPU: unset it"
    elif unused:
        remedy = f'JAX does not see the GPU: pip install "eqcifar[{_extra(gpus)}]"'
    yield Finding("devices", f"{counts} ({platform_name})", remedy)


def _nvidia_gpus() -> list[tuple[str, str]]:
    if shutil.which("nvidia-smi"):
        query = ["--query-gpu=name,driver_version", "--format=csv,noheader"]
        try:
            answer = subprocess.run(
                ["nvidia-smi", *query], capture_output=True, text=True, timeout=30
            )
        except (OSError, subprocess.TimeoutExpired):
            answer = None
        if answer is not None and answer.returncode == 0:
            lines = [line.rsplit(",", 1) for line in answer.stdout.splitlines()]
            return [(line[0].strip(), line[-1].strip()) for line in lines if line]
    if Path("/dev/nvidia0").exists():
        return [("NVIDIA", "unknown")]
    return []


def _extra(gpus: list[tuple[str, str]]) -> str:
    # CUDA 13 needs driver 580 or later.
    major = gpus[0][1].split(".")[0]
    return "cuda13" if major.isdigit() and int(major) >= 580 else "cuda12"


def _caches() -> Iterator[Finding]:
    from eqcifar.data import cache_folder

    yield _cache("decoded images", cache_folder(), "EQCIFAR_CACHE", "*.npz")
    yield _compilations()
    try:
        from datasets import config
    except ImportError as error:
        yield Finding("datasets cache", str(error), 'pip install "datasets[vision]"')
        return
    hub = Path(config.HF_DATASETS_CACHE)
    yield _cache("datasets cache", hub, "HF_HOME")


def _compilations() -> Finding:
    import jax

    if not jax.config.values["jax_enable_compilation_cache"]:
        return Finding("compiled programs", "not kept (JAX_ENABLE_COMPILATION_CACHE)")
    if chosen := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        folder, most = Path(chosen), -1
    else:
        folder, most = compilation_folder(), MOST_BYTES
    most = int(os.environ.get("JAX_COMPILATION_CACHE_MAX_SIZE", most))
    limit = f", at most {format_bytes(most)}" if most >= 0 else ""
    variable = "JAX_COMPILATION_CACHE_DIR" if chosen else "EQCIFAR_CACHE"
    return _cache("compiled programs", folder, variable, "*-cache", limit=limit)


def _cache(
    subject: str, folder: Path, variable: str, pattern: str = "*", *, limit: str = ""
) -> Finding:
    if str(folder).startswith("~"):
        remedy = f"set {variable} to a folder"
        return Finding(subject, "this user has no home folder", remedy)
    try:
        files = [path for path in folder.rglob(pattern) if path.is_file()]
        size = sum(path.stat().st_size for path in files)
    except OSError as error:
        return Finding(subject, str(error), f"set {variable} to another folder")
    found = f"{folder} ({format_bytes(size)} in {len(files)} files{limit})"
    return Finding(subject, found, _write_problem(folder, f"set {variable}"))


def _folder(out: Path) -> Iterator[Finding]:
    remedy = _write_problem(out, "give --out")
    yield Finding("results", str(out.absolute()), remedy)


def _write_problem(folder: Path, remedy: str) -> str:
    existing = folder.absolute()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        return f"cannot write to {existing} ({error.strerror}): {remedy} a folder"
    free = shutil.disk_usage(existing).free
    if free < _ENOUGH_SPACE:
        return f"{format_bytes(free)} free there: make room, or {remedy} a folder"
    return ""


def _variables() -> Iterator[Finding]:
    for name in _VARIABLES:
        if value := os.environ.get(name):
            offline = " (hub datasets come from the caches alone)"
            yield Finding(name, value + (offline if "OFFLINE" in name else ""))

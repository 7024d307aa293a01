import contextlib
import os
from pathlib import Path

# Of compiled programs kept: some thousands of small ones, some hundreds of large ones.
MOST_BYTES = 2 * 2**30

# By JAX's variables; a start compiles dozens of programs too quick for its default.
_OPTIONS = {
    "JAX_COMPILATION_CACHE_MAX_SIZE": MOST_BYTES,
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": 0.0,
}


def compilation_folder() -> Path:
    """Where compiled programs are kept, unless JAX's own variable names a folder."""
    from eqcifar.data import cache_folder

    return cache_folder() / "jax"


def keep_compilations():
    """Start JAX, and have it keep all compiled programs, as it does not by default.

    In `compilation_folder()`, where what was used least recently makes room. Where
    `JAX_COMPILATION_CACHE_DIR` names another folder, all is left to JAX and its
    variables. On several CPU devices nothing is kept: there, a program that is read
    again forgets in which order its collectives go, and its devices may wait for each
    other for ever. To be called before anything is computed.

    **Raises:**

    `eqcifar.errors.UsageError` where there is no device that JAX may use.
    """
    import jax

    from eqcifar.parallel import find_devices

    devices = find_devices()
    if len(devices) > 1 and devices[0].platform == "cpu":
        jax.config.update("jax_enable_compilation_cache", False)
        return
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    folder = compilation_folder()
    # A folder that cannot be written costs only time.
    with contextlib.suppress(OSError):
        _prepare(folder)
        jax.config.update("jax_compilation_cache_dir", str(folder))
        for name, value in _OPTIONS.items():
            if name not in os.environ:
                jax.config.update(name.lower(), value)


def _prepare(folder: Path):
    from filelock import FileLock

    folder.mkdir(parents=True, exist_ok=True)
    # JAX's own lock. It writes a program, then the time of its last use: one without
    # was cut short, would never be read nor replaced, and keeps others from leaving.
    with FileLock(folder / ".lockfile", timeout=10):
        for program in folder.glob("*-cache"):
            if not program.with_name(f"{program.name[:-6]}-atime").exists():
                program.unlink()

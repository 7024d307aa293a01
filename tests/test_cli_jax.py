import os
import subprocess
import sys

import pytest

from .cli_tools import TINY, run_cli, start_cli

_CODE = """
from eqcifar_cli._jax import keep_compilations
keep_compilations()
import jax, jax.numpy as jnp
import collections
events = collections.Counter()
jax.monitoring.register_event_listener(lambda name, **_: events.update([name]))
jax.jit(lambda x: jnp.sin(x) + 1)(jnp.ones(3))
print(jax.config.jax_compilation_cache_max_size)
print(events["/jax/compilation_cache/cache_hits"])
"""


def _start(folder, **env):
    inherited = {**os.environ, "EQCIFAR_CACHE": str(folder)}
    inherited.pop("JAX_COMPILATION_CACHE_DIR", None)
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", _CODE],
        env=inherited | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _run(process):
    output, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    return [int(line) for line in output.split()]


def _programs(folder):
    return {path.name for path in (folder / "jax").glob("*-cache")}


def _bytes(folder):
    return sum(path.stat().st_size for path in (folder / "jax").glob("*-cache"))


@pytest.mark.slow
def test_processes_that_start_together_share_what_they_compile(tmp_path):
    for process in [_start(tmp_path), _start(tmp_path)]:
        assert _run(process)[0] == 2 * 2**30
    programs = _programs(tmp_path)
    assert programs
    # As a process leaves it that is killed while it writes.
    cut = sorted((tmp_path / "jax").glob("*-cache"))[0]
    cut.write_bytes(b"cut")
    cut.with_name(cut.name.replace("-cache", "-atime")).unlink()
    _, hits = _run(_start(tmp_path))
    assert hits == len(programs) - 1
    assert _programs(tmp_path) == programs


@pytest.mark.parametrize("named", [False, True])
def test_several_cpu_devices_keep_nothing(named, tmp_path):
    folder = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "jax")} if named else {}
    for _ in range(2):
        assert _run(_start(tmp_path, JAX_NUM_CPU_DEVICES="2", **folder))[1] == 0
    assert not _programs(tmp_path)


def test_size_is_bounded_and_a_folder_that_cannot_be_written_does_no_harm(tmp_path):
    _run(_start(tmp_path / "unbounded"))
    most = _bytes(tmp_path / "unbounded") - 1
    assert _run(_start(tmp_path, JAX_COMPILATION_CACHE_MAX_SIZE=str(most)))[0] == most
    assert 0 < _bytes(tmp_path) <= most
    (tmp_path / "file").write_text("")
    assert _run(_start(tmp_path / "file"))[1] == 0


_COMMANDS = (
    ("eval", "x"),
    ("predict", "x", "y"),
    ("archs", "resnet8"),
    ("verify",),
    TINY,
)


@pytest.mark.parametrize("command", _COMMANDS)
def test_a_platform_that_is_not_here_is_named(command, monkeypatch):
    def devices():
        raise AssertionError  # As JAX does for `cuda` without its plug-in.

    monkeypatch.setattr("jax.devices", devices)
    result = run_cli(*command)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "JAX_PLATFORMS is 'cpu', which JAX cannot use here" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_platform_that_is_not_known_is_named():
    output, errors = (process := start_cli(*TINY, JAX_PLATFORMS="x")).communicate()
    assert (process.returncode, output) == (2, "")
    assert errors.startswith("Error: JAX_PLATFORMS is 'x', which JAX cannot use here")
    assert errors.count("\n") == 1

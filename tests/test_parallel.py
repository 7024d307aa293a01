"""Two processes of two devices each against one process of four."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from queue import Queue
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from eqcifar import parallel
from eqcifar.config import TrainConfig
from eqcifar.errors import UsageError
from eqcifar.parallel import check_batch, initialise, make_mesh, replicate
from eqcifar.runs import Hooks, train_run_with
from eqcifar.storage import Run

from .helpers import small_dataset, small_net

_TRAIN = """
import hashlib, json, sys
import jax
port, process, folder = sys.argv[1:]
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
from eqcifar import parallel
parallel.initialise(f"localhost:{port}", 2, int(process))
import numpy as np
from eqcifar.errors import EqcifarError, UsageError
from eqcifar.parallel import everywhere
from tests.test_parallel import train


def fail_on_the_second():
    if process == "1":
        raise UsageError("no such data here")


try:
    said = everywhere(fail_on_the_second)
except EqcifarError as error:
    said = str(error)
run, leaves = train(folder)
digest = hashlib.sha256(b"".join(leaf.tobytes() for leaf in leaves)).hexdigest()
np.savez(f"{folder}-{process}.npz", *leaves)
print(json.dumps({"digest": digest, "state": run.status()["state"], "said": said}))
"""


def train(folder, mesh=None):
    """A run that averages and keeps its weights, and all the numbers at its end."""
    last = []
    run = train_run_with(
        folder,
        small_dataset(),
        *small_net(),
        TrainConfig(epochs=2, batch_size=64, warmup=0.0, bn_group=16, swa_from=1),
        mesh=mesh,
        keep_every=1,
        hooks=Hooks(on_epoch=lambda train_state, row: last.append(train_state)),
    )
    arrays = eqx.filter(last[0], eqx.is_array)
    return run, [np.asarray(leaf) for leaf in jax.tree.leaves(arrays)]


def assert_close(found, expected):
    for a, b in zip(found, expected, strict=True):
        scale = max(np.abs(b).max(), 1e-3)
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * scale)


def start(folder: Path) -> list[dict]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    children = [
        subprocess.Popen(
            [sys.executable, "-c", _TRAIN] + [str(x) for x in (port, process, folder)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]
    outputs = [child.communicate(timeout=300)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0]
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def test_two_processes_hold_the_numbers_of_one(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    _, alone = train(one, make_mesh(4))
    results = start(two)
    assert results[0]["digest"] == results[1]["digest"]
    assert {result["state"] for result in results} == {"done"}
    # What fails on one fails on both, each with its own words.
    assert "another process failed" in results[0]["said"]
    assert results[1]["said"] == "no such data here"
    with np.load(f"{two}-0.npz") as together:
        assert_close(together.values(), alone)
    # The second process wrote nothing of its own.
    names = [{p.relative_to(run) for p in run.rglob("*")} for run in (one, two)]
    assert names[0] == names[1]
    # The start and the averages of one epoch and of two, with statistics computed anew.
    kept = [Run(run).checkpoints() for run in (one, two)]
    assert [file.name for file in kept[0]] == [
        f"epoch{k:04}.safetensors" for k in range(3)
    ]
    for a, b in zip(*kept, strict=True):
        here, there = load_file(a), load_file(b)
        assert here.keys() == there.keys()
        assert_close(there.values(), [here[name] for name in there])


def test_a_batch_that_devices_cannot_share_names_what_would_do():
    with pytest.raises(UsageError, match="multiple of 8, or --devices 6"):
        check_batch(12, make_mesh(8))


def test_no_cluster_is_a_usage_error():
    # In a process of its own: JAX has to be fresh.
    code = "from eqcifar.parallel import initialise; initialise()"
    child = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert "UsageError: no cluster found to distribute over" in child.stderr


def test_slurm_with_more_gpus_than_tasks_is_refused(monkeypatch):
    for name, value in {
        "SLURM_LOCALID": "0",
        "SLURM_GPUS_ON_NODE": "8",
        "SLURM_NTASKS_PER_NODE": "1",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="--ntasks-per-node equal to the GPUs"):
        initialise()


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_keys_are_replicated_as_they_are(impl):
    key = jax.random.key(3, impl=impl)
    tree = replicate({"key": key, "name": "a"}, make_mesh())
    assert tree["name"] == "a"
    assert jax.random.key_impl(tree["key"]) == jax.random.key_impl(key)
    assert jnp.array_equal(jax.random.normal(tree["key"]), jax.random.normal(key))


def test_options_that_xla_has_are_given_to_it():
    assert parallel.compiler_options() == parallel._CPU_OPTIONS
    text = parallel.jit(jnp.sin).lower(jnp.ones(2)).compile().compiled.as_text()
    assert "sine" in text


def test_options_that_xla_lacks_are_left_out(monkeypatch):
    known = {"xla_disable_hlo_passes": "cse_barrier_expander"}
    lacking = {"xla_that_was_dropped": "1", "xla_cpu_enable_fast_math": "neither"}
    monkeypatch.setattr(parallel, "_CPU_OPTIONS", {**known, **lacking})
    assert parallel.compiler_options() == known
    doubled = parallel.jit(lambda x: 2 * x)(jnp.arange(3))
    np.testing.assert_array_equal(doubled, [0, 2, 4])
    # Told to XLA all the same, they end every compilation.
    for name, value in lacking.items():
        refused = jax.jit(jnp.sin, compiler_options={name: value})
        with pytest.raises(jax.errors.JaxRuntimeError, match=name):
            refused(jnp.ones(2))


class Signs:
    """What keeps the signs of processes, as the client of JAX has it."""

    def __init__(self, **signs):
        self.signs = {f"eqcifar/signs/{k[1:]}": sign for k, sign in signs.items()}

    def key_value_set(self, name, sign, *, allow_overwrite):
        assert allow_overwrite
        self.signs[name] = sign

    def key_value_dir_get(self, folder):
        return [*self.signs.items()]


def test_a_silent_process_is_lost_and_one_that_has_left_is_not(monkeypatch):
    monkeypatch.setattr(parallel, "_SILENCE", 0.5)
    client, lost = Signs(_1="7", _2="left"), Queue()
    monkeypatch.setattr(parallel.distributed.global_state, "client", client)
    leave = parallel.watch_others(lost.put)
    assert lost.get(timeout=20) == [1]
    client.signs["eqcifar/signs/1"] = "left"
    leave()
    assert client.signs["eqcifar/signs/0"] == "left"
    # Nothing is told after.
    leave = parallel.watch_others(lost.put)
    leave()
    assert lost.empty()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="of Linux")
def test_programs_are_forgotten_before_the_system_refuses_more(monkeypatch):
    twice: Any = jax.jit(lambda x: x * 2)
    twice(jnp.ones(3))
    parallel.bound_programs()
    assert twice._cache_size() == 1
    monkeypatch.setattr(parallel, "_MOST_MAPS", 0)
    parallel.bound_programs()
    assert twice._cache_size() == 0

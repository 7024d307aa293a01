"""What a sweep starts in place of `eqcifar train`: claims a run, pretends to compute.

    python stub_run.py PATH BEHAVIOUR

"done" computes it, "slow" in half a second, "fail" fails, "crash" dies of SIGKILL,
"wait" goes on until told to stop, and "once" does so unless it was interrupted before.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import filelock

path, behaviour = Path(sys.argv[1]), sys.argv[2]


def report(state: str):
    (path / "status.json").write_text(json.dumps({"state": state}))


def stop(number: int, frame: object):
    report("interrupted")
    print("saved", flush=True)
    os._exit(75 if number == signal.SIGTERM else 130)


def stop_at_eof():
    sys.stdin.read()
    stop(signal.SIGINT, None)


def note(name: str, text: object):
    with open(path / name, "a") as file:
        file.write(f"{text}\n")


try:
    lock = filelock.FileLock(path / ".lock", timeout=0).acquire()
except filelock.Timeout:
    sys.exit("Error: run directory in use")
if (path / "model.safetensors").exists():
    sys.exit()
signal.signal(signal.SIGTERM, stop)
threading.Thread(target=stop_at_eof, daemon=True).start()
before = (path / "status.json").exists()
(path / "config.json").write_text("{}")
report("running")
note("pids", os.getpid())
print("GPU", os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
if behaviour == "wait" or (behaviour == "once" and not before):
    time.sleep(60)
if behaviour == "fail":
    print("\n".join(f"line {number}" for number in range(8)))
    sys.exit("Error: diverged")
if behaviour == "crash":
    os.kill(os.getpid(), signal.SIGKILL)
begin = time.time()
time.sleep(0.5 if behaviour == "slow" else 0)
note("computed", f"{begin} {time.time()}")
(path / "model.safetensors").touch()
report("done")

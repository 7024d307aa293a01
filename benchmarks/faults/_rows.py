"""All faults by name; each is one line here."""

from . import _hosts as hosts, _limits as limits, _sharing as sharing
from ._inside import PHASES, save_in_place, save_often
from ._kills import killed
from ._outcomes import Fault
from ._signals import stopped, stopped_early, stopped_twice
from ._subjects import EPOCHS, MEASUREMENTS, RUNS, TINY, measured_meanwhile

_TO_END, _HOSTS = 5.0, 30.0

FAULTS: dict[str, Fault] = {
    **{
        f"SIGKILL, {name}": Fault(killed(subject, save_often, epochs=EPOCHS), 24)
        for name, subject in RUNS.items()
    },
    "SIGKILL, a writer that is not atomic (control)": Fault(
        killed(RUNS["plain"], save_in_place, epochs=EPOCHS), 24, control=True
    ),
    **{
        f"SIGKILL, {name}": Fault(killed(subject, save_often), 12)
        for name, subject in MEASUREMENTS.items()
    },
    "signals at import": Fault(stopped_early(["train", *TINY]), 10, _TO_END),
    **{
        f"signals at {phase}": Fault(
            stopped(measured_meanwhile, phase),
            10,
            None if phase == "compilation" else _TO_END,
        )
        for phase in PHASES
    },
    "Ctrl-C twice": Fault(stopped_twice(RUNS["eqcifar train"]), 5, 1.0),
    "2 processes of 2 devices": Fault(hosts.the_same_numbers(2, 2), 5),
    "4 processes of 1 device": Fault(hosts.the_same_numbers(4, 1), 5),
    "a process is killed": Fault(hosts.one_of(hosts.KILLED), 20, _HOSTS),
    "a process is stalled": Fault(hosts.one_of(hosts.STALLED), 20, _HOSTS),
    "a process is preempted": Fault(
        hosts.one_of(hosts.preempt, told=False), 20, _HOSTS
    ),
    "the disk of process 0 is full": Fault(hosts.full_disk, 20, _HOSTS),
    "processes with other options": Fault(hosts.refused(hosts.other_options), 20),
    "processes with other data": Fault(hosts.refused(each=hosts.others_images), 20),
    "a full disk": Fault(limits.full_disk, 20),
    "8 processes on one run": Fault(sharing.many_on_one_run(8), 5),
    "8 processes on one cache": Fault(sharing.many_on_one_cache(8), 3),
    "2 sweeps in one folder": Fault(sharing.two_sweeps, 5),
    "tabulate while a run writes": Fault(
        sharing.read_while_written("tabulate", "--format", "json"), 20
    ),
    "report while a run writes": Fault(sharing.read_while_written("report"), 10),
    "a cache that is deleted": Fault(sharing.deleted, 10),
    "a cache that cannot be written": Fault(sharing.with_a_cache(sharing.read_only), 3),
    "a cache that is full": Fault(sharing.with_a_cache(sharing.full), 3),
    "a cache of another version": Fault(
        sharing.with_a_cache(sharing.of_another_version), 3
    ),
    "little memory, wide network": Fault(
        limits.little_memory("--arch", "resnet18", "--width", 4), 5
    ),
    "little memory, large batch": Fault(
        limits.little_memory("--arch", "resnet8", "--batch-size", 5000), 5
    ),
}

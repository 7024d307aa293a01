from ._child import (
    BY_KEYBOARD as BY_KEYBOARD,
    START_AGAIN as START_AGAIN,
    STOP_AT_EOF as STOP_AT_EOF,
)
from ._finished import is_done as is_done, no_check as no_check
from ._grid import Grid as Grid, take_shard as take_shard
from ._slots import Slot as Slot, find_gpus as find_gpus, make_slots as make_slots
from ._slurm import submit as submit
from ._sweep import Job as Job, Sweep as Sweep

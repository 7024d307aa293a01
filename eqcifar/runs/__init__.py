from typing import TYPE_CHECKING, Any

from ._child import BY_KEYBOARD as BY_KEYBOARD
from ._child import START_AGAIN as START_AGAIN
from ._child import STOP_AT_EOF as STOP_AT_EOF
from ._devices import Slot as Slot
from ._devices import find_gpus as find_gpus
from ._devices import make_slots as make_slots
from ._directory import (
    Run as Run,
)
from ._directory import (
    config_hash as config_hash,
)
from ._directory import (
    config_name as config_name,
)
from ._directory import (
    current_state as current_state,
)
from ._directory import (
    find_runs as find_runs,
)
from ._directory import (
    latest_run as latest_run,
)
from ._directory import (
    run_path as run_path,
)
from ._fields import keep as keep
from ._fields import parse_baseline as parse_baseline
from ._figure import file_name as file_name
from ._figure import save_figure as save_figure
from ._formats import ASCII as ASCII
from ._formats import long_rows as long_rows
from ._formats import to_delimited as to_delimited
from ._formats import to_json as to_json
from ._formats import to_latex as to_latex
from ._formats import to_markdown as to_markdown
from ._grid import Grid as Grid
from ._grid import parse_values as parse_values
from ._grid import take_shard as take_shard
from ._log import COLUMNS as COLUMNS
from ._measures import Basis as Basis
from ._origin import hardware as hardware
from ._origin import software as software
from ._origin import train_arguments as train_arguments
from ._origin import train_command as train_command
from ._original import read_original as read_original
from ._pivot import pivot as pivot
from ._plot import plot_against as plot_against
from ._plot import plot_all as plot_all
from ._plot import plot_curves as plot_curves
from ._records import Record as Record
from ._records import read_records as read_records
from ._report import write_report as write_report
from ._slurm import submit as submit
from ._statistics import Comparison as Comparison
from ._statistics import Summary as Summary
from ._statistics import summarise as summarise
from ._statistics import welch as welch
from ._sweep import Job as Job
from ._sweep import Sweep as Sweep
from ._table import Group as Group
from ._table import Table as Table
from ._table import check_baseline as check_baseline
from ._table import measured as measured
from ._table import sharpness_measured as sharpness_measured
from ._table import tabulate as tabulate
from ._track import TRACKERS as TRACKERS
from ._track import Tracker as Tracker
from ._track import Tracking as Tracking

if TYPE_CHECKING:
    from ._arrays import named_arrays as named_arrays
    from ._arrays import with_arrays as with_arrays
    from ._checkpoint import CheckpointError as CheckpointError
    from ._description import data_of as data_of
    from ._description import describe as describe
    from ._description import load_data as load_data
    from ._description import named_config as named_config
    from ._export import export_model as export_model
    from ._predict import Guess as Guess
    from ._predict import classify as classify
    from ._predict import find_images as find_images
    from ._sharpness import column_name as column_name
    from ._sharpness import first_columns as first_columns
    from ._sharpness import measure_subject as measure_subject
    from ._sharpness import record as record
    from ._sharpness import sharpness_row as sharpness_row
    from ._sharpness_compare import SplitComparison as SplitComparison
    from ._sharpness_compare import compare_splits as compare_splits
    from ._sharpness_extra import measure_original as measure_original
    from ._sharpness_extra import plan_subject as plan_subject
    from ._sharpness_log import SharpnessLog as SharpnessLog
    from ._sharpness_plots import check_plots as check_plots
    from ._sharpness_plots import plot_sharpness as plot_sharpness
    from ._states import (
        LoadedModel as LoadedModel,
    )
    from ._states import (
        load_checkpoint as load_checkpoint,
    )
    from ._states import (
        load_model as load_model,
    )
    from ._states import (
        save_checkpoint as save_checkpoint,
    )
    from ._states import (
        save_model as save_model,
    )
    from ._subject import SharpnessOptions as SharpnessOptions
    from ._subject import Subject as Subject
    from ._subject import open_subject as open_subject
    from ._train import Hooks as Hooks
    from ._train import train_run as train_run
    from ._train import train_run_with as train_run_with
    from ._wide_table import append_wide as append_wide

# These need JAX, which reading ten thousand runs does not: imported when first used.
_LAZY = {
    "named_arrays": "_arrays",
    "with_arrays": "_arrays",
    "CheckpointError": "_checkpoint",
    "data_of": "_description",
    "describe": "_description",
    "load_data": "_description",
    "named_config": "_description",
    "column_name": "_sharpness",
    "first_columns": "_sharpness",
    "measure_subject": "_sharpness",
    "record": "_sharpness",
    "sharpness_row": "_sharpness",
    "SplitComparison": "_sharpness_compare",
    "compare_splits": "_sharpness_compare",
    "measure_original": "_sharpness_extra",
    "plan_subject": "_sharpness_extra",
    "SharpnessLog": "_sharpness_log",
    "check_plots": "_sharpness_plots",
    "plot_sharpness": "_sharpness_plots",
    "SharpnessOptions": "_subject",
    "Subject": "_subject",
    "open_subject": "_subject",
    "classify": "_predict",
    "export_model": "_export",
    "find_images": "_predict",
    "Guess": "_predict",
    "load_checkpoint": "_states",
    "load_model": "_states",
    "LoadedModel": "_states",
    "save_checkpoint": "_states",
    "save_model": "_states",
    "Hooks": "_train",
    "train_run": "_train",
    "train_run_with": "_train",
    "append_wide": "_wide_table",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})

from ._align import align as align, permute as permute
from ._along_training import SharpnessLog as SharpnessLog
from ._checkpoints import measure_checkpoints as measure_checkpoints
from ._compare_splits import (
    CompareOptions as CompareOptions,
    SplitComparison as SplitComparison,
    compare_splits as compare_splits,
)
from ._compute_measure import compute_measure as compute_measure
from ._connect import (
    Barrier as Barrier,
    Connection as Connection,
    ConnectOptions as ConnectOptions,
    Line as Line,
    connect as connect,
)
from ._connect_plot import plot_connection as plot_connection
from ._measure import measure as measure
from ._measure_network import (
    append_measures as append_measures,
    measure_network as measure_network,
    measures_table as measures_table,
)
from ._measure_runs import (
    RunOutcome as RunOutcome,
    finished_runs as finished_runs,
    measure_runs as measure_runs,
)
from ._measured_network import (
    MeasuredNetwork as MeasuredNetwork,
    SharpnessOptions as SharpnessOptions,
    open_network as open_network,
)
from ._original import (
    measure_original as measure_original,
    plan_network as plan_network,
)
from ._row import (
    column_name as column_name,
    first_columns as first_columns,
    sharpness_row as sharpness_row,
)
from ._sharpness_table import (
    SharpnessTable as SharpnessTable,
    check_plots as check_plots,
)
from ._stability import StabilityLog as StabilityLog, threshold as threshold
from ._work import Show as Show, Warn as Warn

from ._along_training import SharpnessLog as SharpnessLog
from ._compare_splits import (
    SplitComparison as SplitComparison,
    compare_splits as compare_splits,
)
from ._measure import (
    column_name as column_name,
    first_columns as first_columns,
    measure_subject as measure_subject,
    record as record,
    sharpness_row as sharpness_row,
)
from ._measured_network import (
    SharpnessOptions as SharpnessOptions,
    Subject as Subject,
    open_subject as open_subject,
)
from ._original import (
    measure_original as measure_original,
    plan_subject as plan_subject,
)
from ._plots import check_plots as check_plots, plot_sharpness as plot_sharpness

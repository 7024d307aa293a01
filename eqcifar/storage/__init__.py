from ._files import (
    cannot_write as cannot_write,
    find_folders as find_folders,
    open_regular as open_regular,
    read_json as read_json,
    remove_temporaries as remove_temporaries,
    replacing as replacing,
    write_json as write_json,
)
from ._growing_table import (
    Cell as Cell,
    append_once as append_once,
    append_wide as append_wide,
    keep_rows as keep_rows,
    read_wide as read_wide,
)
from ._log import (
    COLUMNS as COLUMNS,
    append_row as append_row,
    cut_log as cut_log,
    last_values as last_values,
    read_log as read_log,
    total_seconds as total_seconds,
)
from ._measurements import (
    ABOUT as ABOUT,
    CONVENTION as CONVENTION,
    Basis as Basis,
    read_measures as read_measures,
    read_sharpness_log as read_sharpness_log,
)
from ._naming import (
    config_hash as config_hash,
    config_name as config_name,
    run_path as run_path,
)
from ._run import (
    FORMAT as FORMAT,
    Run as Run,
    explain_no_network as explain_no_network,
    find_runs as find_runs,
    latest_run as latest_run,
)
from ._status import STATES as STATES, current_state as current_state

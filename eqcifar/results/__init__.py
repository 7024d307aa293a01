from ._columns import parse_column as parse_column
from ._conditions import (
    filter_records as filter_records,
    parse_baseline as parse_baseline,
)
from ._formats import (
    ASCII as ASCII,
    FORMATS as FORMATS,
    Format as Format,
    long_rows as long_rows,
    to_delimited as to_delimited,
    to_json as to_json,
    to_latex as to_latex,
    to_markdown as to_markdown,
)
from ._original import read_original as read_original
from ._pivot import TextTable as TextTable, pivot as pivot
from ._plot import (
    plot_against as plot_against,
    plot_all as plot_all,
    plot_curves as plot_curves,
)
from ._provenance import hardware as hardware, software as software
from ._rank import (
    TARGETS as TARGETS,
    Ranged as Ranged,
    Ranked as Ranked,
    Ranking as Ranking,
    rank as rank,
)
from ._rank_plot import plot_ranking as plot_ranking
from ._rank_table import (
    ranking_rows as ranking_rows,
    ranking_tables as ranking_tables,
)
from ._records import Record as Record, read_records as read_records
from ._report import write_report as write_report
from ._statistics import (
    Summary as Summary,
    WelchTest as WelchTest,
    summarise as summarise,
    welch as welch,
)
from ._table import (
    Group as Group,
    Table as Table,
    check_baseline as check_baseline,
    measured_columns as measured_columns,
    sharpness_columns as sharpness_columns,
    tabulate as tabulate,
)
from ._unmeasured import is_measured as is_measured, unmeasured as unmeasured

from eqcifar.losses import Loss as Loss, get_loss as get_loss

from ._ascent import (
    Ball as Ball,
    m_sharpness as m_sharpness,
    of_unit_logits as of_unit_logits,
)
from ._by_example import (
    margins as margins,
    radial_slopes as radial_slopes,
    relative_flatness as relative_flatness,
)
from ._compare import (
    Comparison as Comparison,
    check_comparison as check_comparison,
    compare as compare,
    ratio as ratio,
)
from ._curved import curved_leaves as curved_leaves
from ._draw import estimate_fitted as estimate_fitted
from ._estimate import (
    Estimate as Estimate,
    Target as Target,
    estimate_mean as estimate_mean,
)
from ._examples import (
    Batch as Batch,
    Examples as Examples,
    stream as stream,
)
from ._gram import ntk_estimates as ntk_estimates, ntk_gram as ntk_gram
from ._hessian_trace import (
    HessianTrace as HessianTrace,
    hessian_trace as hessian_trace,
    penalty_trace as penalty_trace,
)
from ._how_many import HowMany as HowMany, how_many as how_many
from ._lanczos import (
    Density as Density,
    Eigen as Eigen,
    eigenpairs as eigenpairs,
    overlap as overlap,
    spectral_density as spectral_density,
)
from ._landscape import (
    Landscape as Landscape,
    as_direction as as_direction,
    filter_normalised as filter_normalised,
    landscape as landscape,
)
from ._leading import leading_eigenpair as leading_eigenpair
from ._log_determinant import (
    log_determinant as log_determinant,
    scaled_operator as scaled_operator,
)
from ._memory import MEMORY as MEMORY, check_memory as check_memory
from ._network import (
    Network as Network,
    check_independent as check_independent,
    scaling as scaling,
)
from ._noise import pac_bayes_sigma as pac_bayes_sigma
from ._operator import (
    Kind as Kind,
    Operator as Operator,
    ggn_vector_product as ggn_vector_product,
    hessian_vector_product as hessian_vector_product,
    ntk_vector_product as ntk_vector_product,
    operator as operator,
)
from ._original import (
    ORIGINAL_DEFECTS as ORIGINAL_DEFECTS,
    Original as Original,
    original_traces as original_traces,
)
from ._output_traces import (
    OutputTraces as OutputTraces,
    Root as Root,
    UnitLogits as UnitLogits,
    output_traces as output_traces,
    shared_output_traces as shared_output_traces,
)
from ._pieces import (
    Rows as Rows,
    keeping as keeping,
    load_rows as load_rows,
    page as page,
    piece as piece,
    save_rows as save_rows,
    tell as tell,
)
from ._probe_traces import (
    ProbeTraces as ProbeTraces,
    probe_traces as probe_traces,
    quadratic_forms as quadratic_forms,
)
from ._radius import (
    Slope as Slope,
    average_sharpness as average_sharpness,
    loss_at as loss_at,
    sam_sharpness as sam_sharpness,
    slope_of as slope_of,
)
from ._stochastic_trace import (
    frobenius as frobenius,
    hutch_plus_plus as hutch_plus_plus,
    hutchinson as hutchinson,
    xnystrace as xnystrace,
    xtrace as xtrace,
)
from ._stopping import (
    Plan as Plan,
    Stop as Stop,
    Variances as Variances,
    plan as plan,
    variances as variances,
)
from ._task import (
    Measured as Measured,
    Output as Output,
    Task as Task,
)
from ._verify import Check as Check, verify as verify

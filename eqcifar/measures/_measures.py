"""Every measure by name, and what its numbers mean."""

import re
from collections.abc import Iterable

from ..errors import unknown
from ._compare import COMPARE
from ._distance import DISTANCE
from ._eigenvalues import EIGENVALUES
from ._fisher_rao import FISHER_RAO
from ._flatness import FLATNESS
from ._gram import GRAM
from ._landscape import EIGENLINE, EIGENPLANE, LANDSCAPE, PLANE
from ._lmax import LMAX
from ._log_det import LOG_DET
from ._m_sharpness import M_SHARPNESS, M_SHARPNESS_UNIT
from ._margins import MARGINS
from ._measure import Column, Measure
from ._norms import NORMS
from ._ntk import NTK, NTK_MEAN
from ._original import ORIGINAL
from ._pac_bayes import PAC_BAYES
from ._path import PATH
from ._products import HUTCH_PLUS_PLUS, HUTCHINSON, XNYSTRACE, XTRACE
from ._radius import RADIUS
from ._spectrum import SPECTRUM
from ._trace import TRACE
from ._unit import UNIT

MEASURES: dict[str, Measure] = {
    measure.name: measure
    for measure in (
        *(TRACE, NTK, NTK_MEAN, UNIT, LMAX, EIGENVALUES, RADIUS),
        *(HUTCHINSON, HUTCH_PLUS_PLUS, XTRACE, XNYSTRACE),
        *(GRAM, LANDSCAPE, PLANE, EIGENLINE, EIGENPLANE, SPECTRUM),
        *(
            NORMS,
            DISTANCE,
            PATH,
            MARGINS,
            FISHER_RAO,
            FLATNESS,
            PAC_BAYES,
            M_SHARPNESS,
            M_SHARPNESS_UNIT,
            LOG_DET,
        ),
    )
}
COLUMNS: dict[str, Column] = {
    name: column
    for measure in MEASURES.values()
    for name, column in measure.columns.items()
}
COLUMNS |= COMPARE | ORIGINAL
_LOSS_UNITS = {"ce": "nats", "mse": "½‖f − y‖²"}


def usual_measures() -> tuple[str, ...]:
    """The names of what is measured unless something else is asked for."""
    return tuple(name for name, measure in MEASURES.items() if measure.usual)


def check_measures(names: Iterable[str]) -> tuple[str, ...]:
    """The names without repetition; `all` stands for every measure.

    **Raises:**

    `UsageError` for a name that is no measure, with the nearest ones.
    """
    chosen: dict[str, None] = {}
    for name in names:
        if name == "all":
            chosen.update(dict.fromkeys(MEASURES))
        elif name in MEASURES:
            chosen[name] = None
        else:
            raise unknown("measure", name, [*MEASURES, "all"])
    return tuple(chosen)


def meaning(name: str, loss: str) -> str:
    """What a number means, in one line, for a loss; empty for an unknown one."""
    return _column(name).meaning.format(loss=loss)


def depends_on_loss(name: str) -> bool:
    """Whether another loss gives another number."""
    return "{loss}" in _column(name).meaning


def unit(name: str, loss: str) -> str:
    """The unit of a number, without breakable spaces; empty without one."""
    text = _column(name).unit.format(loss=unit_of_loss(loss))
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def unit_of_loss(loss: str) -> str:
    """The unit that a loss is in, without breakable spaces."""
    return _LOSS_UNITS.get(loss, loss).replace(" ", "\N{NO-BREAK SPACE}")


def _column(name: str) -> Column:
    return COLUMNS.get(re.sub(r"_\d+$", "_k", name), Column(""))

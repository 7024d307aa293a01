"""The networks of `minima.tsv` as records, and how measures order them."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from eqcifar import results
from eqcifar.config import TrainConfig
from eqcifar.measures import MEASURES
from eqcifar.results import Record
from eqcifar.storage import Basis

from .tables import Row

FIELDS = (
    *("dataset", "arch", "width", "lr", "batch_size", "weight_decay", "sam", "mixup"),
    *("label_noise", "subset", "until_loss", "epochs", "seed"),
)
ENDS = "loss_tr", "acc_tr", "loss_te", "acc_te"
# Of a network, and no less of it is better: what else orders networks.
BASELINES = "loss_tr", "ended"
# What is ranked, of all columns, and what pages call it.
TITLES = {
    "tr_hess": "tr H",
    "lmax": "λ_max",
    "tr_ntk": "tr NTK",
    "tr_ctk": "tr CTK",
    "tr_ntk_unit": "tr NTK, unit logits",
    "tr_ggn_theta": "tr GGN θ²",
    "sam_step": "rise, SAM's step",
    "sam_adaptive": "rise, ASAM's step",
    "average": "rise, mean direction",
    "average_adaptive": "rise, mean direction, adaptive",
    "worst": "m-sharpness",
    "worst_adaptive": "m-sharpness, adaptive",
    "worst_max": "m-sharpness, largest entry",
    "worst_max_adaptive": "m-sharpness, largest entry, adaptive",
    "inverse_margin": "1 / margin²",
    "fisher_rao": "Fisher-Rao norm",
    "relative_flatness": "relative flatness",
    "pac_bayes": "PAC-Bayes 1/σ²",
    "pac_bayes_mag": "PAC-Bayes 1/σ², magnitude-aware",
    "frobenius": "Frobenius norm²",
    "log_spectral": "log spectral norms",
    "log_path": "log path norm",
    "distance": "distance from the start²",
    "loss_tr": "training loss",
    "ended": "epochs trained",
}
# Measured on train alone: of weights, or as dear as all others together.
ON_TRAIN = "norms", "path", "distance", "m_sharpness", "pac_bayes"
_WHOLE = "batch_size", "epochs", "seed"


def column_of(name: str) -> str:
    """The column of a measure: that of SAM's step is no option of training."""
    return re.sub(r"^sam(?=$|_te$)", "sam_step", name)


def record_of(row: Mapping[str, Any]) -> Record:
    """A row of `minima.tsv` as what `eqcifar.results` ranks."""
    fields = {name: row[name] for name in FIELDS}
    fields |= {name: int(row[name]) for name in _WHOLE}
    seed = fields.pop("seed")
    names = [name for name in row if f"{name}_se" in row and row[name] == row[name]]
    numbers = {k: v for k, v in row.items() if isinstance(v, float) and v == v}
    return Record(
        path=Path(),
        recipe=TrainConfig.from_dict({**fields, "loss": "ce"}),
        seed=seed,
        state="done",
        data=fields["dataset"],
        synthetic=fields["dataset"].startswith("synthetic"),
        values=numbers,
        bases={name: Basis(int(row["samples"]), ()) for name in names},
    )


def ranked(rows: Iterable[Row]) -> list[Row]:
    """How measures order networks, by data set, target, measure and split."""
    records = [record_of(row) for row in rows]
    on_train = {column for name in ON_TRAIN for column in MEASURES[name].columns}
    columns = [
        column
        for name in TITLES
        for column in (name, f"{name}_te")
        if column == name or name not in on_train
        if any(column in record.values for record in records)
    ]
    found = results.rank(results.tabulate(records), columns)
    return [
        {k: v for k, v in row.items() if k not in ("same", "images")}
        for row in results.ranking_rows(found)
    ]


def configurations(rows: Iterable[Row]) -> list[list[Row]]:
    """Rows whose options are the same but for the seed, together."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in FIELDS[:-1]), []).append(row)
    return list(groups.values())

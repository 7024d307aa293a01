"""What `eqcifar compare` finds, by column; see `measurements.compare_splits`."""

from ._measure import Column

COMPARE = {
    "ratio_hess": Column("tr_hess on test over tr_hess on train ({loss})"),
    "ratio_ggn": Column("tr_ggn on test over tr_ggn on train ({loss})"),
    "cos_hess": Column("cosine between the Hessians ({loss})"),
    "cos_ggn": Column("cosine between the GGNs ({loss})"),
    "cos_resid": Column("cosine between the residuals ({loss})"),
    "overlap": Column("overlap of the spaces of the largest eigenvalues ({loss})"),
}

"""What each number means, in one line; `{loss}` stands where it depends on a loss."""

MEANINGS = {
    "tr_hess": "trace of the Hessian of the mean {loss} loss",
    "tr_ggn": "its Gauss-Newton part, J' (d2 {loss}/df2) J",
    "tr_resid": "the rest, tr_hess - tr_ggn ({loss})",
    "tr_ggn_theta": "tr_ggn ({loss}) times theta^2: no change when layers are rescaled",
    "tr_ggn_filter": "tr_ggn ({loss}) times the filters' mean squares",
    "tr_ntk": "trace of the NTK: mean over images of ||df/dtheta||^2, all classes",
    "tr_ctk": "tr_ntk times theta^2 (connectivity tangent kernel)",
    "tr_ntk_filter": "tr_ntk times the filters' mean squares",
    "tr_ntk_unit": "tr_ntk for logits divided by their standard deviation",
    "tr_ctk_unit": "tr_ctk for the same",
    "lmax": "largest eigenvalue of the Hessian of the mean {loss} loss",
    "sam": "worst-case rise of the {loss} loss at distance 0.05, one step",
    "sam_adaptive": "the same ({loss}) at ||delta / |theta||| = 0.5",
    "average": "mean rise of the {loss} loss at distance 0.05, all directions",
    "average_adaptive": "the same ({loss}) at ||delta / |theta||| = 0.5",
    "lmax_ntk": "largest eigenvalue of the NTK on 64 images, J J' / 64",
    "rank_ntk": "its effective rank, (tr K)^2 / ||K||_F^2",
    "line": "rise of the {loss} loss half a filter-normalised random step away",
    "frobenius2": "||H||_F^2 of the Hessian of the mean {loss} loss",
    "tr_hess_batch": "the original's tr_hess, first training batch",
    "tr_hess_dataset": "the original's tr_hess, training images",
    "tr_hess_dataset_te": "the original's tr_hess, test images",
    "tr_ntk_batch": "the original's tr_ntk, first training batch",
    "tr_ntk_dataset": "the original's tr_ntk, training images",
    "tr_ntk_dataset_te": "the original's tr_ntk, test images",
    "ratio_hess": "tr_hess on test over tr_hess on train ({loss})",
    "ratio_ggn": "tr_ggn on test over tr_ggn on train ({loss})",
    "cos_hess": "cosine between the Hessians ({loss})",
    "cos_ggn": "cosine between the GGNs ({loss})",
    "cos_resid": "cosine between the residuals ({loss})",
    "overlap": "overlap of the spaces of the largest eigenvalues ({loss})",
}


def meaning(name: str, loss: str) -> str:
    """The meaning of a measure's number, for a loss."""
    return MEANINGS.get(name, "").format(loss=loss)


def depends_on_loss(name: str) -> bool:
    """Whether another loss gives another number."""
    return "{loss}" in MEANINGS.get(name, "")

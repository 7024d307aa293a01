"""What each number means, in one line; `{loss}` stands where it depends on a loss."""

import re

MEANINGS = {
    "tr_hess": "trace of the Hessian of the mean {loss} loss",
    "tr_ggn": "its Gauss-Newton part, J' (d2 {loss}/df2) J",
    "tr_resid": "the rest, tr_hess - tr_ggn ({loss})",
    "tr_ggn_theta": "tr_ggn ({loss}) times theta^2: no change when layers are rescaled",
    "tr_ggn_filter": "tr_ggn ({loss}) times the filters' mean squares",
    "tr_ntk": "trace of the NTK: mean over images of ||df/dtheta||^2, all classes",
    "tr_ctk": "tr_ntk times theta^2 (connectivity tangent kernel)",
    "tr_ntk_filter": "tr_ntk times the filters' mean squares",
    "tr_ntk_mean": "tr_ntk divided by the number of classes",
    "tr_ctk_mean": "tr_ctk divided by the number of classes",
    "tr_ntk_filter_mean": "tr_ntk_filter divided by the number of classes",
    "tr_ntk_unit": "tr_ntk for logits divided by their standard deviation",
    "tr_ctk_unit": "tr_ctk for the same",
    "lmax": "largest eigenvalue of the Hessian of the mean {loss} loss",
    "lambda_k": "eigenvalue of the Hessian of the mean {loss} loss, largest first",
    "lambda_ggn_k": "eigenvalue of its Gauss-Newton part ({loss}), largest first",
    "sam": "worst-case rise of the {loss} loss at distance 0.05, one step",
    "sam_adaptive": "sam ({loss}) at ||delta / T|| = 0.5: T = |theta| for weights, 1 "
    "for biases and normalisation (ASAM)",
    "average": "mean rise of the {loss} loss at distance 0.05, all directions",
    "average_adaptive": "average ({loss}) at ||delta / T|| = 0.5, T as in sam_adaptive",
    "lmax_ntk": "largest eigenvalue of the NTK J J' / n, from 64 images",
    "rank_ntk": "its effective rank, (tr K)^2 / ||K||_F^2",
    "line": "mean rise of the {loss} loss at +-0.5 along a random filter-normalised "
    "direction",
    "plane": "mean rise of the {loss} loss at (+-0.5, +-0.5) on two such directions, "
    "about 0.5 sqrt 2 filter lengths away",
    "eigenline": "mean rise of the {loss} loss at +-0.5 along the leading eigenvector",
    "eigenplane": "mean rise of the {loss} loss at (+-0.5, +-0.5) on the leading two, "
    "0.5 sqrt 2 away",
    "frobenius2": "||H||_F^2 of the Hessian of the mean {loss} loss over these images",
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


# How often 95 % intervals held the truth, see `benchmarks/coverage.py`.
_COVERAGE = {
    "hutchinson": "94 to 95 %",
    "hutch++": "93 to 96 %",
    "xtrace": "97 to 98 %",
    "xnystrace": "93 to 97 %",
}
MEANINGS |= {
    f"tr_{kind}_{name}": f"tr_{kind} ({{loss}}) of these images; 95 % intervals "
    f"held the truth in {held}"
    for name, held in _COVERAGE.items()
    for kind in ("hess", "ggn")
    if (kind, name) != ("hess", "xnystrace")
}


def meaning(name: str, loss: str) -> str:
    """The meaning of a measure's number, for a loss."""
    return MEANINGS.get(_general(name), "").format(loss=loss)


def depends_on_loss(name: str) -> bool:
    """Whether another loss gives another number."""
    return "{loss}" in MEANINGS.get(_general(name), "")


def _general(name: str) -> str:
    return re.sub(r"_\d+$", "_k", name)


_LOSS_UNITS = {"ce": "nats", "mse": "½‖f − y‖²"}
# The first pattern that fits tells the unit; `{loss}` is the loss's.
_UNITS = {
    r"tr_(ctk|ntk_filter)(_mean)?": "logits²",
    r"tr_ctk_unit|rank_ntk|ratio_\w+|cos_\w+|overlap": "",
    r"tr_ntk_unit": "1 / parameter²",
    r"(tr|lmax)_ntk\w*": "logits² / parameter²",
    r"tr_ggn_(theta|filter)": "{loss}",
    r"(tr_|lmax|lambda).*": "{loss} / parameter²",
    r"frobenius2": "({loss} / parameter²)²",
    r"(sam|average|line|plane|eigenline|eigenplane)(_adaptive)?": "{loss}",
}


def unit(name: str, loss: str) -> str:
    """The unit of a measure's number, without breakable spaces; empty without one."""
    for pattern, text in _UNITS.items():
        if re.fullmatch(pattern, name):
            text = text.format(loss=_LOSS_UNITS.get(loss, loss))
            return text.replace(" ", "\N{NO-BREAK SPACE}")
    return ""

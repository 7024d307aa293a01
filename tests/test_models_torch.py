"""Logits, gradients and running statistics against PyTorch, in float64."""

import numpy as np
import pytest

from . import reference
from .make_torch_fixture import FIXTURE


def assert_close(ours, theirs):
    """Equal to 1e-9 of the largest value: some gradients are zero but for rounding."""
    largest = max(np.abs(values).max() for values in theirs)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(
            a.reshape(b.shape), b, rtol=1e-9, atol=1e-9 * largest
        )


@pytest.mark.parametrize("case", reference.CASES)
def test_agrees_with_pytorch(case):
    pytest.importorskip("torch", reason="pip install 'eqcifar[torch]' to compare")
    from . import torch_models

    theirs = torch_models.evaluate(case, *reference.make_inputs(case))
    ours = reference.evaluate(case)
    assert_close([ours["train_logits"]], [theirs["train_logits"]])
    assert_close([ours["inference_logits"]], [theirs["inference_logits"]])
    assert_close(ours["train_gradients"], theirs["train_gradients"])
    assert_close(ours["inference_gradients"], theirs["inference_gradients"])
    assert_close(ours["statistics"], theirs["statistics"])


@pytest.mark.parametrize("case", reference.CASES)
def test_agrees_with_stored_results_of_pytorch(case):
    ours = reference.summarise(reference.evaluate(case))
    with np.load(FIXTURE) as stored:
        for name, values in ours.items():
            assert_close([values], [stored[f"{case}/{name}"]])

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import foldnorm

from benchmarks.calibration import cover
from eqcifar.training import calibration_error


def test_one_bin_is_a_folded_normal():
    rng = np.random.default_rng(0)
    confidence = np.full(2000, 0.9)
    correct = rng.random(2000) < 0.87
    found = calibration_error(confidence, correct)
    gap = abs(correct.mean() - 0.9)
    squares = ((correct - 0.9) ** 2).mean() + (0.9**2 + 0.1**2) / 2000
    error = np.sqrt((squares - gap**2) / 2000)

    def end(share):
        return brentq(lambda t: foldnorm.sf(gap / error, t / error) - share, 0, 1)

    assert found.plugin == pytest.approx(gap, rel=1e-12)
    for name, share in (("value", 0.5), ("low", 0.025), ("high", 0.975)):
        assert getattr(found, name) == pytest.approx(end(share), abs=0.15 * error)


@pytest.mark.parametrize("truth", [0.0, 0.03])
def test_intervals_hold_the_truth(truth):
    # The plug-in is 0.033 and 0.044 on average.
    row = cover("unsure", "share", truth, 1000, 60)
    assert row is not None
    assert row["coverage"] >= 0.9
    assert abs(row["mean"] - truth) < abs(row["mean_plugin"] - truth)


def test_the_value_is_inside_its_interval():
    rng = np.random.default_rng(1)
    for n in (1, 2, 5, 40, 1000):
        for bias in (-0.2, 0.0, 0.2):
            confidence = rng.uniform(0.3, 1.0, n)
            correct = rng.random(n) < confidence + bias
            found = calibration_error(confidence, correct)
            assert 0 <= found.low <= found.value <= found.high <= 1


def test_no_errors_seen_are_no_proof_of_calibration():
    # Of 1000 sure answers 1 error is expected, and none is seen: that proves nothing.
    found = calibration_error(np.full(1000, 0.999), np.ones(1000, bool))
    assert found.low == 0
    assert 1 / 1000 < found.high < 5 / 1000
    nothing = calibration_error(np.zeros(0), np.zeros(0, bool))
    assert np.isnan([nothing.value, nothing.low, nothing.high, nothing.plugin]).all()

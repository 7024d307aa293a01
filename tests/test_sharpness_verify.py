import pytest

from eqcifar import sharpness
from eqcifar.errors import UsageError


@pytest.mark.slow
def test_every_check_passes_in_single_precision():
    checks = sharpness.verify()
    assert len(checks) == 5
    for check in checks:
        assert check.passed, check
        assert check.expected > 0
        assert check.allowed < 0.05 * check.expected


@pytest.mark.parametrize(
    ("measured", "passed"),
    [(2.0, True), (2.01, True), (1.99, True), (2.02, False), (1.98, False)]
    + [(float("nan"), False), (float("inf"), False)],
)
def test_a_check_passes_within_what_is_allowed(measured, passed):
    assert sharpness.Check("any", measured, 2.0, 0.015).passed is passed


@pytest.mark.parametrize("rtol", [0.0, -1.0, 1.0, float("nan")])
def test_a_tolerance_is_between_0_and_1(rtol):
    with pytest.raises(UsageError, match="rtol must be between 0 and 1"):
        sharpness.verify(rtol)

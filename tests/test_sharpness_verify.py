import pytest

from eqcifar import sharpness
from eqcifar.errors import UsageError


def test_every_check_passes_in_single_precision():
    checks = sharpness.verify()
    assert len(checks) == 5
    for check in checks:
        assert check.passed, check
        assert check.expected > 0
        assert check.allowed < 0.05 * check.expected


@pytest.mark.parametrize("rtol", [0.0, -1.0, 1.0, float("nan")])
def test_a_tolerance_is_between_0_and_1(rtol):
    with pytest.raises(UsageError, match="rtol must be between 0 and 1"):
        sharpness.verify(rtol)

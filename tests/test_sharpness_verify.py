from eqcifar import sharpness


def test_every_check_passes_in_single_precision():
    checks = sharpness.verify()
    assert len(checks) == 5
    for check in checks:
        assert check.passed, check
        assert check.expected > 0
        assert check.allowed < 0.9 * check.expected

import pytest

from eqcifar.errors import UsageError
from eqcifar.training import TrainConfig


def test_a_configuration_survives_its_dictionary():
    config = TrainConfig(lr=1.0, mean=(0.1, 0.2, 0.3), loss="ce")
    assert TrainConfig.from_dict(config.to_dict()) == config
    assert TrainConfig.from_dict({"lr": 1}).to_dict()["lr"] == 1.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning": 1}, "unknown configuration key 'learning'"),
        ({"epoch": 1}, "did you mean 'epochs'"),
        ({"lr": "0.1"}, "lr = '0.1': must be a number"),
        ({"epochs": 2.5}, "epochs = 2.5: must be a whole number"),
        ({"augment": 1}, "augment = 1: must be true or false"),
        ({"epochs": 0}, "epochs = 0: must be above 0"),
        ({"lr": float("nan")}, "lr = nan: must be finite"),
        ({"mean": [1, 2]}, "must be 3 numbers"),
        ({"std": [1.0, 0.0, 1]}, "must be each above 0"),
        ({"momentum": 1.0}, "must be at least 0 and below 1"),
        ({"seed": 2**32}, r"must be at least 0 and below 4294967296"),
        ({"bn_group": 3}, "must be 0 or a divisor of the batch size, 1000"),
        ({"mixup_group": 3}, "mixup_group = 3: must be 0 or a divisor"),
    ],
)
def test_bad_values_are_refused_by_name(values, message):
    with pytest.raises(UsageError, match=message):
        TrainConfig.from_dict(values)

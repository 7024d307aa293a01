from ._config import TrainConfig as TrainConfig

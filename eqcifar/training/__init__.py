from ..config import TrainConfig as TrainConfig
from ._calibration import (
    CalibrationError as CalibrationError,
)
from ._calibration import (
    calibration_error as calibration_error,
)
from ._evaluate import (
    Evaluation as Evaluation,
)
from ._evaluate import (
    Interval as Interval,
)
from ._evaluate import (
    evaluate as evaluate,
)
from ._evaluate import (
    predict as predict,
)
from ._evaluate import (
    probabilities as probabilities,
)
from ._fit import (
    Diverged as Diverged,
)
from ._fit import (
    Interrupted as Interrupted,
)
from ._fit import (
    Progress as Progress,
)
from ._fit import (
    Row as Row,
)
from ._fit import (
    fit as fit,
)
from ._forward import Model as Model
from ._gradient import check_recipe as check_recipe
from ._loss import (
    LOSSES as LOSSES,
)
from ._loss import (
    Loss as Loss,
)
from ._loss import (
    cross_entropy as cross_entropy,
)
from ._loss import (
    find_loss as find_loss,
)
from ._loss import (
    loss_name as loss_name,
)
from ._loss import (
    squared_error as squared_error,
)
from ._optimiser import steps_per_epoch as steps_per_epoch
from ._per_parameter import l2_coefficients as l2_coefficients
from ._state import TrainState as TrainState
from ._state import copied as copied
from ._state import initialise as initialise
from ._step import random_stream as random_stream

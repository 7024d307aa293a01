from ..config import TrainConfig as TrainConfig
from ._augmentations import AUGMENTATIONS as AUGMENTATIONS
from ._batch import Epoch as Epoch
from ._calibration import (
    CalibrationError as CalibrationError,
    calibration_error as calibration_error,
)
from ._evaluate import (
    Evaluation as Evaluation,
    Interval as Interval,
    evaluate as evaluate,
    example_losses as example_losses,
    predict as predict,
    probabilities as probabilities,
)
from ._fit import (
    Diverged as Diverged,
    Interrupted as Interrupted,
    Progress as Progress,
    Row as Row,
    fit as fit,
)
from ._forward import Model as Model
from ._gradient import batch_loss as batch_loss, check_recipe as check_recipe
from ._optimisers import (
    OPTIMISERS as OPTIMISERS,
    Optimiser as Optimiser,
    l2_coefficients as l2_coefficients,
    learning_rates as learning_rates,
)
from ._recipe import (
    AnyOptimiser as AnyOptimiser,
    Recipe as Recipe,
    View as View,
    make_recipe as make_recipe,
)
from ._schedules import (
    SCHEDULES as SCHEDULES,
    Schedule as Schedule,
    steps_per_epoch as steps_per_epoch,
)
from ._state import TrainState as TrainState, copied as copied, initialise as initialise
from ._statistics import renew_statistics as renew_statistics
from ._step import random_stream as random_stream

from ._array_file import CheckpointError as CheckpointError
from ._checkpoints import (
    LoadedModel as LoadedModel,
    load_checkpoint as load_checkpoint,
    load_model as load_model,
    network_header as network_header,
    save_checkpoint as save_checkpoint,
    save_model as save_model,
    write_network as write_network,
)
from ._description import (
    FolderCheck as FolderCheck,
    data_of as data_of,
    describe as describe,
    load_data as load_data,
    named_config as named_config,
)
from ._environment import environment as environment
from ._evaluate import RunEvaluation as RunEvaluation, evaluate_run as evaluate_run
from ._lock import RunLock as RunLock
from ._named_arrays import (
    named_arrays as named_arrays,
    replace_arrays as replace_arrays,
)
from ._part_name import part_name as part_name
from ._trackers import TRACKERS as TRACKERS, Tracker as Tracker, Tracking as Tracking
from ._train import (
    Hooks as Hooks,
    initial_network as initial_network,
    train_run as train_run,
    train_run_with as train_run_with,
)

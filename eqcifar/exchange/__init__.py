from ._classify import (
    Guess as Guess,
    ReadImages as ReadImages,
    classify as classify,
    find_images as find_images,
    read_images as read_images,
)
from ._export import (
    export_model as export_model,
    pytorch_names as pytorch_names,
    state_dict as state_dict,
)
from ._import import (
    Foreign as Foreign,
    fill as fill,
    import_model as import_model,
    open_foreign as open_foreign,
)
from ._push import push_run as push_run
from ._pytorch_names import NAMINGS as NAMINGS, Match as Match, Naming as Naming

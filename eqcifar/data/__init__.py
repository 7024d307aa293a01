from ._augment import augment as augment
from ._augment import check_crops as check_crops
from ._augment import cutout as cutout
from ._augment import mixup as mixup
from ._augment import normalise as normalise
from ._augment import shift_and_flip as shift_and_flip
from ._cache import cache_folder as cache_folder
from ._dataset import (
    Dataset as Dataset,
)
from ._dataset import (
    Split as Split,
)
from ._dataset import (
    check as check,
)
from ._dataset import (
    limit as limit,
)
from ._dataset import (
    with_validation as with_validation,
)
from ._export import export as export
from ._load import load as load
from ._load import locate as locate
from ._read_image import read_image as read_image
from ._synthetic import synthetic as synthetic

from ._augment import (
    augment as augment,
    check_crops as check_crops,
    cutmix as cutmix,
    cutout as cutout,
    erase as erase,
    mixup as mixup,
    normalise as normalise,
    shift_and_flip as shift_and_flip,
)
from ._cache import cache_folder as cache_folder
from ._dataset import (
    Dataset as Dataset,
    Split as Split,
    check as check,
    limit as limit,
    with_validation as with_validation,
)
from ._export import export as export
from ._label_noise import with_label_noise as with_label_noise
from ._load import DATASETS as DATASETS, load as load, locate as locate
from ._read_image import read_image as read_image
from ._statistics import (
    channel_statistics as channel_statistics,
    class_counts as class_counts,
)
from ._synthetic import synthetic as synthetic

"""The columns of sungyubkim/cifar_jax; see `measurements.measure_original`."""

from ._measure import Column

_UNITS = {"hess": "{loss} / parameter²", "ntk": "logits² / parameter²"}
_IMAGES = {
    "batch": "first training batch",
    "dataset": "training images",
    "dataset_te": "test images",
}
ORIGINAL = {
    f"tr_{matrix}_{end}": Column(f"the original's tr_{matrix}, {images}", unit)
    for matrix, unit in _UNITS.items()
    for end, images in _IMAGES.items()
}

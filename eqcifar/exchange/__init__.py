from ._classify import (
    Guess as Guess,
    ReadImages as ReadImages,
    classify as classify,
    find_images as find_images,
    read_images as read_images,
)
from ._export import export_model as export_model

from ._classify import Guess as Guess, classify as classify, find_images as find_images
from ._export import export_model as export_model

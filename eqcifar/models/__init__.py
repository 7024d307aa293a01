from ._airbench import Airbench as Airbench
from ._batch_norm import BatchNorm as BatchNorm
from ._conv2d import Conv2d as Conv2d
from ._count import (
    PRODUCTS as PRODUCTS,
)
from ._count import (
    count_multiply_adds as count_multiply_adds,
)
from ._count import (
    count_parameters as count_parameters,
)
from ._initial_weights import lecun_normal as lecun_normal
from ._real import check_real as check_real
from ._registry import Architecture as Architecture
from ._registry import check_name as check_name
from ._registry import create as create
from ._registry import names as names
from ._resnet import ResNet as ResNet
from ._vgg import VGG as VGG
from ._whiten import whiten as whiten
from ._wide_resnet import WideResNet as WideResNet

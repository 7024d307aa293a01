from ._activations import ACTIVATIONS as ACTIVATIONS
from ._airbench import Airbench as Airbench
from ._batch_norm import BatchNorm as BatchNorm
from ._conv2d import Conv2d as Conv2d
from ._count import (
    PRODUCTS as PRODUCTS,
    count_multiply_adds as count_multiply_adds,
    count_parameters as count_parameters,
)
from ._folded import folded_weights as folded_weights, log_path_norm as log_path_norm
from ._initial_weights import lecun_normal as lecun_normal
from ._is_weight import is_weight as is_weight
from ._mlp import MLP as MLP
from ._norms import GroupNorm as GroupNorm, NoNorm as NoNorm
from ._permutations import Wire as Wire, channel_axes as channel_axes
from ._preact import PreActResNet as PreActResNet
from ._real import check_real as check_real
from ._registry import (
    ARCHITECTURES as ARCHITECTURES,
    Model as Model,
    check_name as check_name,
    create as create,
)
from ._resnet import ResNet as ResNet
from ._vgg import VGG as VGG
from ._vit import ViT as ViT
from ._whiten import whiten as whiten
from ._wide_resnet import WideResNet as WideResNet

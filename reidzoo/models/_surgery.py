"""Changes that several families make to a finished timm model."""

from __future__ import annotations

import re
from typing import Any

from timm.layers import DropPath
from torch import nn

from reidzoo.models.layers import IBN


def retype(module: nn.Module, cls: type[nn.Module]) -> None:
    """Give `module` the class `cls`, a subclass of its own that overrides methods and adds no state.

    That way timm's constructors, with all their options, stay the only place where a network is put together.
    """
    if not issubclass(cls, type(module)):
        raise TypeError(f"{cls.__name__} is no {type(module).__name__}")
    module.__class__ = cls


def has_last_stride(network: Any) -> bool:
    """Whether `set_last_stride_1` knows the network: a ResNet or a DenseNet of timm."""
    return hasattr(network, "layer4") or hasattr(getattr(network, "features", None), "transition3")


def set_last_stride_1(network: Any) -> None:
    """Make ``layer4`` of a timm ResNet keep the resolution of ``layer3``, without dilation; likewise a DenseNet's end.

    timm's ``output_stride=16`` also keeps the resolution, but dilates the 3x3 convolutions: other features.
    Source: Luo et al., "Bag of Tricks and a Strong Baseline for Deep Person Re-identification", section 3.5.
    """
    if not hasattr(network, "layer4"):
        network.features.transition3.pool = nn.Identity()
        network.feature_info[-1]["reduction"] = network.feature_info[-2]["reduction"]
        return
    block = network.layer4[0]
    for module in block.modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
    for name, module in block.downsample.named_children() if block.downsample else ():
        if isinstance(module, nn.AvgPool2d):  # of timm's "d" variants, which average in front of the 1x1 convolution
            setattr(block.downsample, name, nn.Identity())
    block.stride = 1
    network.feature_info[-1]["reduction"] = network.feature_info[-2]["reduction"]


def set_drop_path(network: nn.Module, rate: float) -> nn.Module:
    """Give the residual branches of a timm network stochastic depth, rising linearly from 0 to `rate` over the blocks.

    Source: Huang et al., "Deep Networks with Stochastic Depth", 2016, section 3. Networks whose blocks have no place
    for it (GhostNet, RepViT) stay as they are.
    """
    # An unused place holds an Identity, or None, which torch keeps apart from the modules.
    slots = [[n for n in vars(m) | m._modules if re.fullmatch(r"drop_path\d?", n)] for m in network.modules()]
    blocks = [(block, names) for block, names in zip(network.modules(), slots, strict=True) if names]
    for i, (block, names) in enumerate(blocks):
        share = rate * i / max(len(blocks) - 1, 1)
        for name in names:
            setattr(block, name, DropPath(share) if share else nn.Identity())
    return network


def use_ibn(resnet: Any) -> None:
    """Replace the first norm of each block in ``layer1`` to ``layer3`` of a timm ResNet by `IBN`."""
    for layer in (resnet.layer1, resnet.layer2, resnet.layer3):
        for block in layer:
            block.bn1 = IBN(block.bn1.num_features)

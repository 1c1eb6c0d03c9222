"""Changes that several families make to a finished timm model."""

from __future__ import annotations

import copy
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
    """Whether `set_last_stride` knows the network: a ResNet or a DenseNet of timm."""
    return hasattr(network, "layer4") or hasattr(getattr(network, "features", None), "transition3")


def set_last_stride(network: Any, stride: int) -> int:
    """Let ``layer4`` of a timm ResNet keep the resolution of ``layer3``, or halve it; likewise a DenseNet's last block.

    timm's ``output_stride=16`` also keeps the resolution, but dilates the 3x3 convolutions: other features.
    Source: Luo et al., "Bag of Tricks and a Strong Baseline for Deep Person Re-identification", section 3.5.

    Args:
        network: One that `has_last_stride`; others stay as they are.
        stride: 1 keeps the resolution, 2 halves it, 0 leaves the network as it is.

    Returns:
        The last stride that it has then, 0 for a network without one.
    """
    if not has_last_stride(network):
        return 0
    last, before = network.feature_info[-1], network.feature_info[-2]["reduction"]
    if stride in (0, last["reduction"] // before):
        return int(last["reduction"] // before)
    if hasattr(network, "layer4"):
        block, others = network.layer4[0], (network.layer3[0], network.layer2[0])
        like = block if stride == 1 else next(other for other in others if type(other) is type(block))
        _set_stride(block, like, stride)
    else:
        features = network.features
        features.transition3.pool = copy.deepcopy(features.transition2.pool) if stride == 2 else nn.Identity()
    last["reduction"] = before * stride
    return stride


def _set_stride(block: nn.Module, halving: nn.Module, stride: int) -> None:
    """Give `block` stride 1, or 2 where `halving`, a block of the same kind, has it."""
    there = dict(halving.named_modules())
    for name, module in list(block.named_modules()):
        twin: Any = there.get(name)
        if not hasattr(twin, "stride"):
            continue
        parent, _, last = name.rpartition(".")
        if isinstance(twin, nn.AvgPool2d) and twin.padding == 0:  # of the "d" variants: 2x2, which 1 would not fit
            setattr(block.get_submodule(parent), last, copy.deepcopy(twin) if stride == 2 else nn.Identity())
        else:
            one = (1,) * len(twin.stride) if isinstance(twin.stride, tuple) else 1
            module.stride = twin.stride if stride == 2 else one


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


def insert_after(stage: nn.Sequential, index: int, module: nn.Module) -> None:
    """Let `module` follow block `index` of a stage. The blocks keep their names, and so do their tensors.

    The new one is called after both (``3_usam``), so that timm's table of layers counts it to the block.
    """
    blocks = list(stage.named_children())
    blocks.insert(index + 1, (f"{blocks[index][0]}_{type(module).__name__.lower()}", module))
    for name, _ in blocks[index + 1 :]:
        stage._modules.pop(name, None)
    for name, block in blocks[index + 1 :]:
        stage.add_module(name, block)

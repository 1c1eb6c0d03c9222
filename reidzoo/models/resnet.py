"""ResNet and ResNet-IBN-a with last stride 1. The official tensor names are timm's."""

from __future__ import annotations

from typing import Any

import timm
from torch import Tensor, nn

from reidzoo.models._keymap import StateDict
from reidzoo.models._registry import ModelSpec
from reidzoo.models._surgery import set_last_stride, use_ibn


def build(spec: ModelSpec, *, img_size: tuple[int, int], **timm_kwargs: Any) -> nn.Module:
    """Build the backbone; the network does not depend on `img_size`.

    timm starts the last norm of each block at zero, the released networks started it at one.
    """
    timm_kwargs.setdefault("zero_init_last", False)
    model: nn.Module = timm.create_model(spec.timm_name, num_classes=0, **timm_kwargs)
    set_last_stride(model, 1)
    if spec.family == "resnet_ibn":
        use_ibn(model)
    return model


def from_official(state: StateDict, model: nn.Module) -> dict[str, Tensor]:
    """The names are the same."""
    return dict(state)


def to_official(state: StateDict, model: nn.Module) -> dict[str, Tensor]:
    """The names are the same."""
    return dict(state)

"""GhostNet as timm has it, without its dropout. The official tensor names are timm's.

The feature is taken after pooling, ``conv_head`` and ReLU: 1280 wide for all three widths.
"""

from __future__ import annotations

from typing import Any

import timm
from torch import Tensor, nn

from reidzoo.models._keymap import StateDict
from reidzoo.models._registry import ModelSpec


def build(spec: ModelSpec, *, img_size: tuple[int, int], **timm_kwargs: Any) -> nn.Module:
    """Build the backbone; the network does not depend on `img_size`.

    timm's default drops 20 % of the feature in training mode even where there is no classifier.
    """
    timm_kwargs.setdefault("drop_rate", 0.0)
    model: nn.Module = timm.create_model(spec.timm_name, num_classes=0, **timm_kwargs)
    return model


def from_official(state: StateDict, model: nn.Module) -> dict[str, Tensor]:
    """The names are the same."""
    return dict(state)


def to_official(state: StateDict, model: nn.Module) -> dict[str, Tensor]:
    """The names are the same."""
    return dict(state)

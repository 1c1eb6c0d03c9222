"""ConvNeXt as timm has it; only the tensor names differ from the official layout."""

from __future__ import annotations

from typing import Any

import timm
from torch import Tensor, nn

from reidzoo.models._keymap import StateDict, rename_from, rename_to, substitute
from reidzoo.models._registry import ModelSpec

_RULES = (
    (r"^stem\.", "downsample_layers.0."),
    (r"^stages\.(\d+)\.downsample\.", r"downsample_layers.\1."),
    (r"^stages\.(\d+)\.blocks\.", r"stages.\1."),
    (r"\.conv_dw\.", ".dwconv."),
    (r"\.mlp\.fc(\d)\.", r".pwconv\1."),
    (r"^head\.norm\.", "norm."),
)


def build(spec: ModelSpec, *, img_size: tuple[int, int], **timm_kwargs: Any) -> nn.Module:
    """Build the backbone; the network does not depend on `img_size`."""
    model: nn.Module = timm.create_model(spec.timm_name, num_classes=0, **timm_kwargs)
    return model


def official_key(key: str, model: nn.Module) -> str:
    """Official name of our tensor `key`."""
    return substitute(key, _RULES)


def from_official(state: StateDict, model: nn.Module) -> dict[str, Tensor]:
    """Official names -> ours."""
    return rename_from(official_key, state, model)


def to_official(state: StateDict, model: nn.Module) -> dict[str, Tensor]:
    """Our names -> official."""
    return rename_to(official_key, state, model)

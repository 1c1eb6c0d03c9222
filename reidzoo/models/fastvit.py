"""FastViT in its multi-branch training form, as timm has it; only the tensor names differ from the official layout."""

from __future__ import annotations

from typing import Any

import timm
from torch import Tensor, nn

from reidzoo.models._keymap import StateDict, rename_from, rename_to, substitute
from reidzoo.models._registry import ModelSpec

_RULES = (
    (r"^stem\.", "patch_embed."),
    (r"^final_conv\.", "conv_exp."),
    (r"\.conv_kxk\.", ".rbr_conv."),
    (r"\.conv_scale\.", ".rbr_scale."),
    (r"\.identity\.", ".rbr_skip."),
    (r"\.large_conv\.", ".lkb_origin."),
    (r"\.mlp\.", ".convffn."),
    (r"\.se\.fc1\.", ".se.reduce."),
    (r"\.se\.fc2\.", ".se.expand."),
    (r"\.(layer_scale(?:_\d)?)\.gamma$", r".\1"),
)


def build(spec: ModelSpec, *, img_size: tuple[int, int], **timm_kwargs: Any) -> nn.Module:
    """Build the backbone; the network does not depend on `img_size`."""
    model: nn.Module = timm.create_model(spec.timm_name, num_classes=0, **timm_kwargs)
    return model


def official_key(key: str, model: nn.Module) -> str:
    """Official name of our tensor `key`: there, stages and what is between them are one list ``network``."""
    key = substitute(key, _RULES)
    if not key.startswith("stages."):
        return key
    _, stage, part, rest = key.split(".", 3)
    with_position = [not isinstance(s.pos_emb, nn.Identity) for s in model.stages]  # type: ignore[union-attr]
    start = 2 * int(stage) + sum(with_position[: int(stage)])
    if part == "downsample":
        return f"network.{start - 1}.{rest}"
    if part == "pos_emb":
        return f"network.{start}.{rest.replace('pos_enc.', 'pe.')}"
    return f"network.{start + with_position[int(stage)]}.{rest}"


def from_official(state: StateDict, model: nn.Module) -> dict[str, Tensor]:
    """Official names -> ours."""
    return rename_from(official_key, state, model)


def to_official(state: StateDict, model: nn.Module) -> dict[str, Tensor]:
    """Our names -> official."""
    return rename_to(official_key, state, model)

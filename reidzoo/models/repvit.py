"""RepViT in its multi-branch training form, with the squeeze-excite of the released networks.

That one rounds its hidden width to multiples of 4 and gates with a hard sigmoid; timm (and the RepViT paper) use
8 and a sigmoid, which for m1_5 loads without complaint and gives other features.
"""

from __future__ import annotations

from typing import Any

import timm
from timm.layers import SqueezeExcite
from timm.models.repvit import RepVit, RepViTBlock
from torch import Tensor, nn

from reidzoo.models._keymap import StateDict, rename_from, rename_to, substitute
from reidzoo.models._registry import ModelSpec
from reidzoo.models._surgery import retype

_STEM_RULES = ((r"^stem\.conv1\.", "features.0.0."), (r"^stem\.conv2\.", "features.0.2."))
_BLOCK_RULES = (
    (r"^token_mixer\.", "token_mixer.0."),
    (r"^se\.fc1\.", "token_mixer.1.conv_reduce."),
    (r"^se\.fc2\.", "token_mixer.1.conv_expand."),
    (r"^channel_mixer\.conv1\.", "channel_mixer.m.0."),
    (r"^channel_mixer\.conv2\.", "channel_mixer.m.2."),
)
_DOWNSAMPLE_RULES = (
    (r"^spatial_downsample\.", "token_mixer.0."),
    (r"^channel_downsample\.", "token_mixer.2."),
    (r"^ffn\.conv1\.", "channel_mixer.m.0."),
    (r"^ffn\.conv2\.", "channel_mixer.m.2."),
)


class ReIDRepViT(RepVit):  # type: ignore[misc]  # timm has no types
    """timm's, for timm before 1.0.31 too, which looks for the widths of all stages in `embed_dim`, a number here."""

    embed_dim: Any

    def reset_classifier(self, *args: Any, **kwargs: Any) -> None:
        """As in timm."""
        width, self.embed_dim = self.embed_dim, (self.embed_dim,)
        super().reset_classifier(*args, **kwargs)
        self.embed_dim = width


def build(spec: ModelSpec, *, img_size: tuple[int, int], **timm_kwargs: Any) -> nn.Module:
    """Build the backbone; the network does not depend on `img_size`."""
    model: Any = timm.create_model(spec.timm_name, num_classes=0, distillation=False, **timm_kwargs)
    blocks: Any = (m for m in model.modules() if isinstance(m, RepViTBlock))
    for block in blocks:
        if isinstance(block.se, SqueezeExcite):
            width = block.se.fc1.in_channels
            block.se = SqueezeExcite(width, rd_ratio=0.25, rd_divisor=4, gate_layer="hard_sigmoid")
    model.pretrained_cfg["classifier"] = "head.head.l"  # without distillation there is one
    retype(model, ReIDRepViT)
    built: nn.Module = model
    return built


def official_key(key: str, model: nn.Module) -> str:
    """Official name of our tensor `key`: there, stem and blocks are one flat list ``features``.

    A stage other than the first begins with timm's ``downsample``, which holds two entries of that list: an ordinary
    block and the one with stride 2.
    """
    if not key.startswith("stages."):
        return substitute(key, _STEM_RULES)
    _, stage, part, rest = key.split(".", 3)
    depths: list[int] = [len(s.blocks) for s in model.stages]  # type: ignore[union-attr]
    start = 1 + sum(depths[: int(stage)]) + 2 * max(int(stage) - 1, 0)
    first, _, tail = rest.partition(".")
    if part == "blocks":
        index = start + (2 if int(stage) else 0) + int(first)
        return f"features.{index}.{substitute(tail, _BLOCK_RULES)}"
    if first == "pre_block":
        return f"features.{start}.{substitute(tail, _BLOCK_RULES)}"
    return f"features.{start + 1}.{substitute(rest, _DOWNSAMPLE_RULES)}"


def from_official(state: StateDict, model: nn.Module) -> dict[str, Tensor]:
    """Official names -> ours."""
    return rename_from(official_key, state, model)


def to_official(state: StateDict, model: nn.Module) -> dict[str, Tensor]:
    """Our names -> official."""
    return rename_to(official_key, state, model)

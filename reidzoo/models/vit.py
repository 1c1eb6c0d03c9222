"""ViT with the IBN-based convolution stem (ICS), and plain ViT; timm's blocks, another stem and position resize.

Source: Luo et al., "Self-Supervised Pre-Training for Transformer-Based Person Re-Identification", arXiv:2111.12084.
"""

from __future__ import annotations

from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from reidzoo.models._keymap import StateDict
from reidzoo.models._registry import ModelSpec
from reidzoo.models._surgery import retype
from reidzoo.models.layers import ICSPatchEmbed, resize_grid


class ReIDVisionTransformer(VisionTransformer):  # type: ignore[misc]  # timm is untyped
    """timm's VisionTransformer whose position embeddings follow the input size as in DINO (see `resize_grid`)."""

    def _pos_embed(self, x: Tensor) -> Tensor:
        """Add class token and positions: ``(B, h, w, C)`` -> ``(B, 1 + h*w, C)``. Only the grid is resized."""
        batch, height, width, dim = x.shape
        grid = self.pos_embed[:, 1:].reshape(1, *self.patch_embed.grid_size, dim)
        positions = resize_grid(grid, (height, width)).reshape(1, height * width, dim)
        tokens = torch.cat([self.cls_token.expand(batch, -1, -1), x.reshape(batch, height * width, dim)], dim=1)
        tokens = tokens + torch.cat([self.pos_embed[:, :1], positions], dim=1)
        dropped: Tensor = self.pos_drop(tokens)
        return dropped


def build(spec: ModelSpec, *, img_size: tuple[int, int], **timm_kwargs: Any) -> nn.Module:
    """Build the backbone.

    The stored position grid is that of the released weights (16 x 8) whatever `img_size` is: other input sizes
    resize it in each forward pass, as in pre-training.
    """
    stem = {"embed_layer": ICSPatchEmbed} if spec.family == "vit" else {}
    model: Any = timm.create_model(
        spec.timm_name, num_classes=0, img_size=spec.input_size[1:], dynamic_img_size=True, **stem, **timm_kwargs
    )
    retype(model, ReIDVisionTransformer)
    if stem:
        model.pretrained_cfg["first_conv"] = "patch_embed.conv.0"
    built: nn.Module = model
    return built


def from_official(state: StateDict, model: nn.Module) -> dict[str, Tensor]:
    """The names are the same; very old files hold the patch projection as a matrix."""
    key = "patch_embed.proj.weight"
    projection = model.get_parameter(key)
    if key in state and state[key].ndim == 2 and state[key].numel() == projection.numel():
        return {**state, key: state[key].reshape(projection.shape)}
    return dict(state)


def to_official(state: StateDict, model: nn.Module) -> dict[str, Tensor]:
    """The names are the same."""
    return dict(state)

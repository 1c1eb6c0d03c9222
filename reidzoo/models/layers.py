"""Layers that timm does not have: instance-batch normalisation and the convolutional ViT stem."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class IBN(nn.Module):
    """Instance-batch normalisation "a": instance norm on the first half of the channels, batch norm on the rest.

    Input and output ``(B, C, H, W)``. Source: Pan et al., "Two at Once", ECCV 2018 (IBN-a).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        # The names are those of the official checkpoints.
        self.IN = nn.InstanceNorm2d(channels // 2, affine=True)
        self.BN = nn.BatchNorm2d(channels - channels // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``(B, C, H, W)``."""
        middle = self.IN.num_features
        return torch.cat([self.IN(x[:, :middle].contiguous()), self.BN(x[:, middle:].contiguous())], dim=1)


class ICSPatchEmbed(nn.Module):
    """IBN-based convolution stem of a ViT with 16x16 patches: 7x7/2, 3x3, 3x3, then an 8x8/8 projection.

    ``(B, in_chans, H, W)`` -> ``(B, H/16, W/16, embed_dim)``; any H, W of at least 16. It has the attributes that
    timm's VisionTransformer asks of its patch embedding.

    Source: Luo et al., "Self-Supervised Pre-Training for Transformer-Based Person Re-Identification", section 3.3.
    """

    def __init__(
        self,
        img_size: tuple[int, int] = (256, 128),
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        stem_dim: int = 64,
        **_: Any,  # timm's layout options: this stem has one layout
    ) -> None:
        super().__init__()
        if patch_size != 16:
            raise ValueError(f"the convolution stem has a stride of 16, not {patch_size}")
        self.img_size = img_size
        self.patch_size = (patch_size, patch_size)
        self.grid_size = self.dynamic_feat_size(img_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        self.conv = nn.Sequential(
            nn.Conv2d(in_chans, stem_dim, 7, stride=2, padding=3, bias=False),
            IBN(stem_dim),
            nn.ReLU(inplace=True),
            nn.Conv2d(stem_dim, stem_dim, 3, padding=1, bias=False),
            IBN(stem_dim),
            nn.ReLU(inplace=True),
            nn.Conv2d(stem_dim, stem_dim, 3, padding=1, bias=False),
            nn.BatchNorm2d(stem_dim),  # the third norm is not IBN
            nn.ReLU(inplace=True),
        )
        self.proj = nn.Conv2d(stem_dim, embed_dim, 8, stride=8)

    def feat_ratio(self, as_scalar: bool = True) -> int | tuple[int, int]:
        """Stride of the stem."""
        return max(self.patch_size) if as_scalar else (self.patch_size[0], self.patch_size[1])

    def dynamic_feat_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Grid (h, w) of an image of `img_size` (H, W)."""
        return (img_size[0] + 1) // 2 // 8, (img_size[1] + 1) // 2 // 8

    def forward(self, x: Tensor) -> Tensor:
        """Embed ``(B, C, H, W)`` images as ``(B, h, w, embed_dim)`` tokens."""
        embedded: Tensor = self.proj(self.conv(x))
        return embedded.permute(0, 2, 3, 1)


def resize_grid(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """Resample position embeddings ``(1, h, w, C)`` to ``(1, *size, C)`` as the pre-training does in each forward pass.

    Bicubic, not antialiased, driven by the ratio (new + 0.1) / old: the small surplus guards against a rounding down
    of the size, and it moves the sampling points too (Caron et al., DINO). Equal sizes return `grid` itself.
    """
    if tuple(grid.shape[1:3]) == tuple(size):
        return grid
    scale = [(new + 0.1) / old for new, old in zip(size, grid.shape[1:3], strict=True)]
    resized = F.interpolate(grid.permute(0, 3, 1, 2).float(), scale_factor=scale, mode="bicubic")
    return resized.permute(0, 2, 3, 1).to(grid.dtype)

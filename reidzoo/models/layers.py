"""Layers that timm does not have: instance-batch normalisation, GeM and the convolutional ViT stem."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reidzoo.errors import ConfigError


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


class GeM(nn.Module):
    """Generalised-mean pooling ``(B, C, H, W)`` -> ``(B, C)`` with one exponent p, which learns from 3 on.

    p = 1 is the average, large p the maximum; values below 1e-6 count as that. Source: Radenovic et al., "Fine-tuning
    CNN Image Retrieval with No Human Annotation", TPAMI 2019, equation 3.
    """

    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.full((1,), 3.0))

    def forward(self, x: Tensor) -> Tensor:
        """Pool each channel, in float32."""
        powers = x.float().clamp(min=1e-6).pow(self.p)
        return powers.mean((-2, -1)).pow(1 / self.p)


class ICSPatchEmbed(nn.Module):
    """IBN-based convolution stem of a ViT with 16x16 patches: 7x7/2, 3x3, 3x3, then an 8x8/8 projection.

    ``(B, in_chans, H, W)`` -> ``(B, H/16, W/16, embed_dim)``; any H, W of at least 16. It has the attributes that
    timm's VisionTransformer asks of its patch embedding. `set_stride` makes the patches overlap.

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
        self.patch_size = (patch_size, patch_size)
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
        self.set_input_size(img_size)

    def set_stride(self, stride: int) -> None:
        """Put the 16x16 patches `stride` pixels apart, an even number: the first convolution makes steps of two."""
        if stride % 2:
            raise ValueError(f"the convolution stem halves the image first, so its stride is even, not {stride}")
        self.proj.stride = (stride // 2, stride // 2)

    def set_input_size(self, img_size: tuple[int, int]) -> None:
        """Note the size whose grid the position embeddings are for."""
        self.img_size, self.grid_size = img_size, self.dynamic_feat_size(img_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]

    def feat_ratio(self, as_scalar: bool = True) -> int | tuple[int, int]:
        """Stride of the stem."""
        stride = 2 * self.proj.stride[0]
        return stride if as_scalar else (stride, stride)

    def dynamic_feat_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Grid (h, w) of an image of `img_size` (H, W)."""
        height, width = (((side + 1) // 2 - 8) // self.proj.stride[0] + 1 for side in img_size)
        return height, width

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


def feature_map(backbone: Any, x: Tensor, width: int) -> Tensor:
    """Return the backbone's last map ``(B, width, h, w)`` of images ``(B, 3, H, W)``, whose pooled form is its feature.

    Raises:
        ConfigError: It has none (as transformers with a class token), or its feature is not the pooled map.
    """
    features = getattr(backbone, "forward_features", None)  # timm's name for it, which other networks may lack
    last: Tensor = backbone(x) if features is None else features(x)
    if last.ndim == 4 and last.shape[1] != width and last.shape[-1] == width:
        last = last.permute(0, 3, 1, 2)  # Swin's channels come last
    if last.ndim != 4 or last.shape[1] != width:
        name = getattr(backbone, "reidzoo_name", type(backbone).__name__)
        raise ConfigError(
            f"this head needs a last map (batch, {width}, height, width), and {name} gives {tuple(last.shape)}. "
            "Take a convolutional network or Swin, such as resnet50_ibn."
        )
    return last

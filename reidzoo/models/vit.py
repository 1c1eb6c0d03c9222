"""ViT with the IBN-based convolution stem (ICS), and plain ViT; timm's blocks, another stem and position resize.

TransReID's overlapping patches and side information are options of the same network.

Source: Luo et al., "Self-Supervised Pre-Training for Transformer-Based Person Re-Identification", arXiv:2111.12084;
He et al., "TransReID: Transformer-based Object Re-Identification", ICCV 2021.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import timm
import torch
from timm.layers import PatchEmbed
from timm.models._manipulate import checkpoint_seq
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from reidzoo.errors import ConfigError
from reidzoo.models._keymap import StateDict
from reidzoo.models._registry import ModelSpec
from reidzoo.models._surgery import retype
from reidzoo.models.layers import ICSPatchEmbed, resize_grid

OPTIONS = ("stride", "pos_size", "cameras", "sie_weight")
"""The arguments of `set_options`."""

# Image sizes and strides of published networks: what tells height from width of a file's position grid.
SIZES = ((256, 128), (384, 128), (256, 256), (224, 224), (384, 384))
STRIDES = (16, 14, 12, 11)


class OverlappingPatchEmbed(PatchEmbed):  # type: ignore[misc]  # timm is untyped
    """timm's patch embedding with a stride: ``(B, C, H, W)`` -> a grid of (H - 16) // s + 1 by (W - 16) // s + 1.

    Source: He et al., "TransReID", section 3.1, equation 2.
    """

    def set_stride(self, stride: int) -> None:
        """Put the patches `stride` pixels apart."""
        self.proj.stride = (stride, stride)

    def set_input_size(self, img_size: Any = None, patch_size: Any = None) -> None:
        """Note the size whose grid the position embeddings are for; arguments as in timm."""
        super().set_input_size(img_size, patch_size)
        self.grid_size = self.dynamic_feat_size(self.img_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]

    def feat_ratio(self, as_scalar: bool = True) -> int | tuple[int, int]:
        """Stride of the patches."""
        return max(self.proj.stride) if as_scalar else tuple(self.proj.stride)

    def dynamic_feat_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Grid (h, w) of an image of `img_size` (H, W)."""
        sides = zip(img_size, self.patch_size, self.proj.stride, strict=True)
        height, width = ((side - patch) // stride + 1 for side, patch, stride in sides)
        return height, width


class ReIDVisionTransformer(VisionTransformer):  # type: ignore[misc]  # timm is untyped
    """timm's VisionTransformer whose position embeddings follow the input size as in DINO (see `resize_grid`).

    With `set_cameras` it takes the cameras of the images as a second argument: ``model(images, camids)``.
    """

    takes_cameras = False
    pos_embed: nn.Parameter

    def _pos_embed(self, x: Tensor, camids: Tensor | None = None) -> Tensor:
        """Add class token and positions: ``(B, h, w, C)`` -> ``(B, 1 + h*w, C)``. Only the grid is resized."""
        batch, height, width, dim = x.shape
        grid = self.pos_embed[:, 1:].reshape(1, *self.patch_embed.grid_size, dim)
        positions = resize_grid(grid, (height, width)).reshape(1, height * width, dim)
        tokens = torch.cat([self.cls_token.expand(batch, -1, -1), x.reshape(batch, height * width, dim)], dim=1)
        tokens = tokens + torch.cat([self.pos_embed[:, :1], positions], dim=1)
        dropped: Tensor = self.pos_drop(self._add_camera(tokens, camids))
        return dropped

    def _add_camera(self, tokens: Tensor, camids: Tensor | None) -> Tensor:
        """Add the weighted vectors of the cameras to all tokens; unknown cameras have the mean of all vectors."""
        if not self.takes_cameras:
            return tokens
        vectors = unknown = self.sie_embed.mean(0, keepdim=True)
        if camids is not None:
            matches = camids[:, None] == self.cameras
            known = matches.any(1)[:, None, None]
            vectors = torch.where(known, self.sie_embed[matches.int().argmax(1)], unknown)
        return tokens + self.sie_weight * vectors

    def forward(self, x: Tensor, camids: Tensor | None = None, **kwargs: Any) -> Tensor:
        """``(B, 3, H, W)``, and (B,) camera numbers if it `takes_cameras`, -> ``(B, D)``; the rest as in timm."""
        if camids is not None:
            x, kwargs = self.forward_features(x, camids, **kwargs), {}
            out: Tensor = self.forward_head(x)
            return out
        out = super().forward(x, **kwargs)
        return out

    def forward_features(self, x: Tensor, camids: Tensor | None = None, **kwargs: Any) -> Tensor:
        """``(B, 3, H, W)`` -> normalised tokens ``(B, 1 + N, D)``."""
        if camids is None:
            out: Tensor = super().forward_features(x, **kwargs)
            return out
        out = self.norm(self.blocks[-1](self.forward_tokens(x, camids)))
        return out

    def forward_tokens(self, x: Tensor, camids: Tensor | None = None) -> Tensor:
        """``(B, 3, H, W)`` -> the tokens ``(B, 1 + N, D)`` that the last block takes."""
        x = self.norm_pre(self.patch_drop(self._pos_embed(self.patch_embed(x), camids)))
        blocks = self.blocks[:-1]
        tokens: Tensor = checkpoint_seq(blocks, x) if self.grad_checkpointing else blocks(x)
        return tokens

    def set_input_size(self, img_size: Any = None, patch_size: Any = None) -> None:
        """Keep the positions at the grid of `img_size` (height, width), see `set_grid`; the rest is timm's."""
        if patch_size is not None:
            super().set_input_size(img_size, patch_size)
        else:
            self.set_grid(img_size=img_size)

    def set_grid(self, *, stride: int | None = None, img_size: tuple[int, int] | None = None) -> None:
        """Resample the positions, once, for another grid of patches; training at that grid moves them there.

        Args:
            stride: Pixels from one 16x16 patch to the next, which may overlap; None: as it is.
            img_size: (height, width) whose grid it is; other sizes follow from it in each call. None: as it is.

        Raises:
            ConfigError: Such a stride cannot be.
        """
        embed, old_grid = self.patch_embed, self.patch_embed.grid_size
        old = embed.feat_ratio(), tuple(embed.img_size)
        new = old[0] if stride is None else stride, tuple(img_size or old[1])
        if new == old:
            return
        patch, step = min(embed.patch_size), 2 if isinstance(embed, ICSPatchEmbed) else 1
        if not 1 <= new[0] <= patch or new[0] % step:
            raise ConfigError(
                f"stride is {stride}, expected {'an even number from 2' if step == 2 else '1'} to {patch} (the "
                "patches' side); TransReID has 12."
            )
        embed.set_stride(new[0])
        embed.set_input_size(new[1])
        for info in self.feature_info:
            info["reduction"] = new[0]
        if embed.grid_size != old_grid:
            moved = resample_positions(self.pos_embed.detach(), old_grid, embed.grid_size)
            self.pos_embed = nn.Parameter(moved, requires_grad=self.pos_embed.requires_grad)
        self._remember(**{k: v for k, v, was in zip(("stride", "pos_size"), new, old, strict=True) if v != was})

    def set_cameras(self, cameras: int | Sequence[int], weight: float = 3.0) -> None:
        """Learn a vector for each camera, which is added to all tokens of its images (side information, SIE).

        A view beside the camera is one more digit: number the pairs, camera * views + view.

        Args:
            cameras: Their numbers (`Records.camid`), or how many there are: 0 to n - 1. The vectors of a network that
                has learned those of the same cameras stay.
            weight: Of the vectors.

        Source: He et al., "TransReID", section 3.3, equation 4.
        """
        numbers = sorted(set(range(cameras) if isinstance(cameras, int) else map(int, cameras)))
        if not numbers or numbers[0] < 0:
            raise ConfigError(f"cameras is {cameras}; expected numbers from 0, such as those of records.camid.")
        if not self.takes_cameras or self.cameras.tolist() != numbers:
            table = self.pos_embed.new_empty(len(numbers), 1, self.pos_embed.shape[-1])
            self.sie_embed = nn.Parameter(nn.init.trunc_normal_(table, std=0.02))
            self.register_buffer("cameras", torch.tensor(numbers, device=table.device), persistent=False)
        self.takes_cameras, self.sie_weight = True, weight
        self._remember(cameras=numbers, sie_weight=weight)

    def no_weight_decay(self) -> set[str]:
        """As in timm, with the cameras' vectors."""
        return {*super().no_weight_decay(), "sie_embed"}

    def _remember(self, **options: Any) -> None:
        """Note how to build the network again."""
        self.reidzoo_kwargs = {**getattr(self, "reidzoo_kwargs", {}), **options}


def build(spec: ModelSpec, *, img_size: tuple[int, int], **kwargs: Any) -> nn.Module:
    """Build the backbone.

    The stored position grid is that of the released weights (16 x 8) whatever `img_size` is: other input sizes
    resize it in each forward pass, as in pre-training.

    Args:
        spec: The row of the zoo.
        img_size: Not used: the network takes any size that 16 divides.
        **kwargs: For `set_options`, and for timm's ViT.
    """
    stem = {"embed_layer": ICSPatchEmbed} if spec.family == "vit" else {}
    options, timm_kwargs = split_options(kwargs)
    model: Any = timm.create_model(
        spec.timm_name, num_classes=0, img_size=spec.input_size[1:], dynamic_img_size=True, **stem, **timm_kwargs
    )
    if stem:
        model.pretrained_cfg["first_conv"] = "patch_embed.conv.0"
    return set_options(model, **options)


def split_options(kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments of `set_options`, and the others."""
    return {k: v for k, v in kwargs.items() if k in OPTIONS}, {k: v for k, v in kwargs.items() if k not in OPTIONS}


def takes_options(model: Any) -> bool:
    """Whether `set_options` knows it: a ViT of timm with a class token and room for all image sizes."""
    return type(model) is VisionTransformer and model.num_prefix_tokens == 1 and bool(model.dynamic_img_size)


def set_options(
    model: Any,
    *,
    stride: int | None = None,
    pos_size: tuple[int, int] | None = None,
    cameras: int | Sequence[int] = 0,
    sie_weight: float = 3.0,
) -> nn.Module:
    """Make a ViT of timm into a `ReIDVisionTransformer`, and change what is asked for. Returns the model.

    Args:
        model: With a class token and room for all image sizes (timm's ``dynamic_img_size``).
        stride: See `ReIDVisionTransformer.set_grid`.
        pos_size: Its ``img_size``.
        cameras: See `ReIDVisionTransformer.set_cameras`; 0: none.
        sie_weight: See there.

    Raises:
        ConfigError: Another kind of network, or a value out of range.
    """
    if not isinstance(model, ReIDVisionTransformer):
        if not takes_options(model):
            name = getattr(model, "reidzoo_name", "") or type(model).__name__
            raise ConfigError(
                f"{name!r} is no ViT with a class token, which stride, cameras (SIE) and the jigsaw patches need. "
                "Such are vit_tiny, vit_small, vit_base, transreid_ssl_vit_small and timm/vit_base_patch16_224."
            )
        retype(model, ReIDVisionTransformer)
    if type(model.patch_embed) is PatchEmbed:
        retype(model.patch_embed, OverlappingPatchEmbed)
    model.set_grid(stride=stride, img_size=pos_size)
    if cameras != 0:
        model.set_cameras(cameras, sie_weight)
    built: nn.Module = model
    return built


def resample_positions(table: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Resample position embeddings ``(1, k + h*w, D)`` of grid `old` (h, w) to `new`; the first k stay as they are.

    Bilinear, as TransReID does once, when it loads a network for another size or stride.
    """
    if old == new:
        return table
    k = table.shape[1] - old[0] * old[1]
    grid = table[:, k:].reshape(1, *old, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(grid.float(), new, mode="bilinear").to(table.dtype)
    return torch.cat([table[:, :k], resized.flatten(2).transpose(1, 2)], dim=1)


def fit_positions(state: StateDict, model: Any) -> dict[str, Tensor]:
    """`state` with the position embeddings resampled to the grid of `model`, if their own grid is a known one.

    Known are those of published sizes and strides, and of the model's own input size.
    """
    table, ours = state.get("pos_embed"), model.pos_embed
    if table is None or table.ndim != 3 or table.shape[::2] != ours.shape[::2] or table.shape == ours.shape:
        return dict(state)
    count = table.shape[1] - (ours.shape[1] - math.prod(model.patch_embed.grid_size))
    own = [model.patch_embed.dynamic_feat_size(model.pretrained_cfg["input_size"][1:])]
    known = [tuple((side - 16) // stride + 1 for side in size) for stride, size in product(STRIDES, SIZES)]
    old = next((grid for grid in own + known if math.prod(grid) == count), None)
    if old is None:
        return dict(state)
    return {**state, "pos_embed": resample_positions(table, old, model.patch_embed.grid_size)}


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

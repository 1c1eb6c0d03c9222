"""PASS: a plain ViT with three part tokens beside the class token.

Source: Zhu et al., "PASS: Part-Aware Self-Supervised Pre-Training for Person Re-Identification", arXiv:2203.03931.
"""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor, nn

from reidzoo.errors import ConfigError
from reidzoo.models._keymap import StateDict
from reidzoo.models._registry import ModelSpec
from reidzoo.models._surgery import retype
from reidzoo.models.layers import resize_grid
from reidzoo.models.vit import ReIDVisionTransformer, set_options, split_options
from reidzoo.models.vit import from_official as vit_from_official

_PARTS = (1, 2, 3)
_FUSIONS = ("cat", "mean")


class PASSVisionTransformer(ReIDVisionTransformer):
    """A ViT whose tokens are class, part 1 (upper half), part 2 (middle), part 3 (lower half), patches.

    Each of the four special tokens has a position of its own; the position table holds the patch grid alone and follows
    the input size as in `ReIDVisionTransformer`. ``forward_features`` gives all normalised tokens ``(B, 4 + N, D)``.
    """

    feat_fusion: str

    def add_part_tokens(self, feat_fusion: str) -> None:
        """Make a timm ViT with ``no_embed_class`` into one of these."""
        self.feat_fusion = feat_fusion
        self.num_prefix_tokens = 1 + len(_PARTS)
        self.cls_pos = nn.Parameter(torch.zeros_like(self.cls_token))
        for i in _PARTS:
            for name in (f"part_token{i}", f"part{i}_pos"):
                vector = nn.init.trunc_normal_(torch.empty_like(self.cls_token), std=0.02)
                self.register_parameter(name, nn.Parameter(vector))
        if self.global_pool == "token":
            self.head_hidden_size = self.num_features * (2 if feat_fusion == "cat" else 1)

    def _pos_embed(self, x: Tensor, camids: Tensor | None = None) -> Tensor:
        """Add special tokens and positions: ``(B, h, w, D)`` -> ``(B, 4 + h*w, D)``."""
        batch, height, width, dim = x.shape
        grid = self.pos_embed.reshape(1, *self.patch_embed.grid_size, dim)
        patches = (x + resize_grid(grid, (height, width))).reshape(batch, height * width, dim)
        special = [self.cls_token + self.cls_pos]
        special += [self.get_parameter(f"part_token{i}") + self.get_parameter(f"part{i}_pos") for i in _PARTS]
        tokens = torch.cat([torch.cat(special, dim=1).expand(batch, -1, -1), patches], dim=1)
        dropped: Tensor = self.pos_drop(self._add_camera(tokens, camids))
        return dropped

    def pool(self, x: Tensor, pool_type: str | None = None) -> Tensor:
        """`fuse` the special tokens of ``(B, 4 + N, D)``."""
        if (self.global_pool if pool_type is None else pool_type) != "token":
            pooled: Tensor = super().pool(x, pool_type)
            return pooled
        return fuse(x[:, : self.num_prefix_tokens], self.feat_fusion)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """As in timm, but the pool stays or goes (``""``): fused tokens and pooled patches differ in width."""
        if global_pool not in (None, "", self.global_pool):
            raise ConfigError(
                f"This network is built for global_pool={self.global_pool!r}, and {global_pool!r} gives another width. "
                f"Build it anew: reidzoo.create_model(NAME, global_pool={global_pool!r})"
            )
        super().reset_classifier(num_classes, global_pool)

    def no_weight_decay(self) -> set[str]:
        """As in timm, with the special tokens and their positions."""
        special = {name for i in _PARTS for name in (f"part_token{i}", f"part{i}_pos")}
        return {*super().no_weight_decay(), "cls_pos", *special}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """As in timm, with the special tokens and their positions in the stem."""
        return {
            **super().group_matcher(coarse),
            "stem": r"^cls_(?:token|pos)|part(?:_token\d|\d_pos)|pos_embed|patch_embed",
        }


def fuse(tokens: Tensor, how: str) -> Tensor:
    """Fuse class token c and mean part token p: ``(B, 4, D)`` -> [c, p] ``(B, 2D)``, or with "mean" (c + p)/2."""
    whole, parts = tokens[:, 0], tokens[:, 1:].mean(dim=1)
    return torch.cat([whole, parts], dim=1) if how == "cat" else (whole + parts) / 2


def build(spec: ModelSpec, *, img_size: tuple[int, int], feat_fusion: str = "cat", **kwargs: Any) -> nn.Module:
    """Build the backbone; the stored position grid is that of the released weights whatever `img_size` is.

    Args:
        spec: The row of the zoo.
        img_size: Not used: the network takes any size that 16 divides.
        feat_fusion: The feature: ``"cat"``, class token and mean part token side by side (2D wide), or ``"mean"``, the
            mean of these two (D wide).
        **kwargs: For `reidzoo.models.vit.set_options`, and for timm's ViT.

    Raises:
        ConfigError: Unknown fusion.
    """
    if feat_fusion not in _FUSIONS:
        raise ConfigError(f"feat_fusion={feat_fusion!r} is unknown. Known: {', '.join(_FUSIONS)}.")
    options, timm_kwargs = split_options(kwargs)
    model: Any = timm.create_model(
        spec.timm_name,
        num_classes=0,
        img_size=spec.input_size[1:],
        dynamic_img_size=True,
        no_embed_class=True,
        **timm_kwargs,
    )
    retype(model, PASSVisionTransformer)
    model.add_part_tokens(feat_fusion)
    return set_options(model, **options)


def from_official(state: StateDict, model: nn.Module) -> dict[str, Tensor]:
    """The names are the same."""
    return vit_from_official(state, model)


def to_official(state: StateDict, model: nn.Module) -> dict[str, Tensor]:
    """The names are the same."""
    return dict(state)

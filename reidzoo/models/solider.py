"""SOLIDER: Swin with 7x7 windows in all stages and a semantic controller behind each downsampling.

The released files follow mmcv's layout: other names, and another order of the four neighbours that a merging joins.
Source: Chen et al., "Beyond Appearance: a Semantic Controllable Self-Supervised Learning Framework for Human-Centric
Visual Tasks", arXiv:2303.17602.
"""

from __future__ import annotations

import re
from typing import Any

import timm
from timm.layers import LayerNorm2d
from timm.models._features import feature_take_indices
from timm.models.swin_transformer import PatchMerging, SwinTransformer, SwinTransformerBlock
from torch import Tensor, nn
from torch.nn import functional as F

from reidzoo.models._keymap import StateDict, rename_from, rename_to, substitute
from reidzoo.models._registry import ModelSpec
from reidzoo.models._surgery import retype
from reidzoo.models.swin import PadFirstBlock, drop_index_tables, index_tables

# Ours -> official. There, a stage ends with the downsampling with which timm begins the next (see `official_key`).
_RULES = (
    (r"^patch_embed\.proj\.", "patch_embed.projection."),
    (r"^semantic_embed_([wb])\.", r"semantic_embed_\1.3."),
    (r"^layers\.", "stages."),
    (r"\.attn\.", ".attn.w_msa."),
    (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
    (r"\.mlp\.fc2\.", ".ffn.layers.1."),
    (r"^norm\.", "norm3."),
)
_MERGING = re.compile(r"^layers\.(\d+)\.downsample\.")
# Official names of the tensors whose last axis runs over the 2x2 neighbours of a merging and their channels.
_NEIGHBOURS = re.compile(r"^stages\.\d+\.downsample\.(norm\.(weight|bias)|reduction\.weight)$")


class SemanticMerging(PatchMerging):  # type: ignore[misc]  # timm is untyped
    """timm's patch merging, its output scaled and shifted by how much semantics the feature should hold."""

    semantic_weight: float

    def forward(self, x: Tensor) -> Tensor:
        """``(B, H, W, C)`` -> ``(B, H/2, W/2, 2C)``: x * softplus(W s) + b(s) with s = (weight, 1 - weight)."""
        merged: Tensor = super().forward(x)
        if self.semantic_weight < 0:
            return merged
        mixture = merged.new_tensor([self.semantic_weight, 1 - self.semantic_weight])
        merged = merged * F.softplus(self.semantic_embed_w(mixture)) + self.semantic_embed_b(mixture)
        return merged


class SOLIDERSwin(SwinTransformer):  # type: ignore[misc]
    """timm's Swin with the semantic controller and with a norm for the map of each stage.

    The feature is the mean over the last normalised map. The norms of the earlier stages have no part in it, nor has
    the last of the four controllers, which comes after the last map; the released files hold them all the same.
    """

    def add_controller(self, semantic_weight: float) -> None:
        """Add the controllers and the norms, all frozen: the release fine-tunes without moving them."""
        for block in (m for m in self.modules() if isinstance(m, SwinTransformerBlock)):
            retype(block, PadFirstBlock)
        for stage in self.layers[1:]:
            retype(stage.downsample, SemanticMerging)
            _add_embeddings(stage.downsample, stage.downsample.out_dim)
        _add_embeddings(self, self.num_features)
        for i, info in enumerate(self.feature_info[:-1]):
            norm = LayerNorm2d(info["num_chs"], eps=self.norm.eps).to(self.norm.weight)
            self.add_module(f"norm{i}", norm.requires_grad_(False))
        self.set_semantic_weight(semantic_weight)

    def set_semantic_weight(self, semantic_weight: float) -> None:
        """Choose between appearance (0) and semantics (1); a negative weight switches the controller off."""
        for stage in self.layers[1:]:
            stage.downsample.semantic_weight = float(semantic_weight)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Stage maps ``(B, C, h, w)`` and the final map ``(B, h, w, C)``; arguments as in timm.

        With ``norm=True`` each map goes through the norm of its stage, as SOLIDER hands them to dense tasks.
        """
        result = super().forward_intermediates(x, indices, norm, stop_early, output_fmt, intermediates_only)
        if norm:
            maps = result if intermediates_only else result[1]
            for place, stage in enumerate(sorted(feature_take_indices(len(self.layers), indices)[0])):
                if hasattr(self, f"norm{stage}"):
                    maps[place] = self.get_submodule(f"norm{stage}")(maps[place])
        return result


def _add_embeddings(module: nn.Module, dim: int) -> None:
    like = next(module.parameters())
    for name in ("semantic_embed_w", "semantic_embed_b"):
        module.add_module(name, nn.Linear(2, dim).to(like).requires_grad_(False))


def build(spec: ModelSpec, *, img_size: tuple[int, int], semantic_weight: float = 0.2, **timm_kwargs: Any) -> nn.Module:
    """Build the backbone; the network does not depend on `img_size`.

    Args:
        spec: The row of the zoo.
        img_size: Not used: the network takes any size that 4 divides.
        semantic_weight: 0 for appearance to 1 for semantics; negative for none of it. The release takes 0.2 for
            re-identification.
        **timm_kwargs: For timm's Swin.
    """
    model: Any = timm.create_model(
        spec.timm_name,
        num_classes=0,
        img_size=spec.input_size[1:],
        window_size=7,
        always_partition=True,
        strict_img_size=False,
        **timm_kwargs,
    )
    retype(model, SOLIDERSwin)
    model.add_controller(semantic_weight)
    built: nn.Module = model
    return built


def official_key(key: str, model: nn.Module) -> str:
    """Official name of our tensor `key`."""
    if found := _MERGING.match(key):
        stage, rest = int(found[1]) - 1, key[found.end() :]
        name, _, leaf = rest.partition(".")
        return f"{name}.{stage}.{leaf}" if name.startswith("semantic_embed") else f"stages.{stage}.downsample.{rest}"
    return substitute(key, _RULES)


def from_official(state: StateDict, model: nn.Module) -> dict[str, Tensor]:
    """Official names and order of neighbours -> ours; drops the stored index tables where they equal the model's."""
    kept = drop_index_tables(state, model, official_key)
    return rename_from(official_key, {k: _swap(k, t, (-1, 2, 2)) for k, t in kept.items()}, model)


def to_official(state: StateDict, model: nn.Module) -> dict[str, Tensor]:
    """Our names and order of neighbours -> official, with the index tables that the official layout stores."""
    renamed = rename_to(official_key, {**state, **index_tables(model)}, model)
    return {k: _swap(k, t, (2, 2, -1)) for k, t in renamed.items()}


def _swap(key: str, tensor: Tensor, axes: tuple[int, int, int]) -> Tensor:
    """Reorder the 4C columns of a merging: (channel, row, column) in the official files, the reverse in timm.

    Exchanging the outer axes goes either way. Tensors that are no merging's, or cannot be, stay as they are.
    """
    if not _NEIGHBOURS.match(key) or tensor.ndim == 0 or tensor.shape[-1] % 4:
        return tensor
    return tensor.reshape(*tensor.shape[:-1], *axes).transpose(-1, -3).flatten(-3)

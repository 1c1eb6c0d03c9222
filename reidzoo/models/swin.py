"""Swin with full 8x8 windows in all stages and padding before the shift, as the released networks have it."""

from __future__ import annotations

import re
from typing import Any

import timm
import torch
from timm.models.swin_transformer import (
    SwinTransformerBlock,
    WindowAttention,
    get_relative_position_index,
    window_partition,
    window_reverse,
)
from torch import Tensor, nn
from torch.nn import functional as F

from reidzoo.models._keymap import KeyFn, StateDict, rename_from, rename_to
from reidzoo.models._registry import ModelSpec
from reidzoo.models._surgery import retype


class PadFirstBlock(SwinTransformerBlock):  # type: ignore[misc]  # timm is untyped
    """timm's block, but it pads the map to whole windows before the cyclic shift; timm shifts first.

    The two agree only where the map is a multiple of the window. The padded tokens are zeros behind the first norm
    and take part in the attention of their region.
    """

    def _attn(self, x: Tensor) -> Tensor:
        """Windowed self-attention on ``(B, h, w, C)``."""
        height, width, channels = x.shape[1:]
        window, shift = self.window_size, self.shift_size
        x = F.pad(x, (0, 0, 0, -width % window[1], 0, -height % window[0]))
        padded = (x.shape[1], x.shape[2])
        if any(shift):
            x = torch.roll(x, shifts=(-shift[0], -shift[1]), dims=(1, 2))
        windows = window_partition(x, window).view(-1, self.window_area, channels)
        windows = self.attn(windows, mask=self.get_attn_mask(x)).view(-1, *window, channels)
        x = window_reverse(windows, window, *padded)
        if any(shift):
            x = torch.roll(x, shifts=tuple(shift), dims=(1, 2))
        return x[:, :height, :width].contiguous()


def build(spec: ModelSpec, *, img_size: tuple[int, int], **timm_kwargs: Any) -> nn.Module:
    """Build the backbone; the network does not depend on `img_size`.

    timm's default shrinks the window to small maps, which changes the position tables, and fixes the input size.
    """
    model: nn.Module = timm.create_model(
        spec.timm_name,
        num_classes=0,
        img_size=spec.input_size[1:],
        window_size=8,
        always_partition=True,
        strict_img_size=False,
        **timm_kwargs,
    )
    for module in model.modules():
        if isinstance(module, SwinTransformerBlock):
            retype(module, PadFirstBlock)
    return model


def official_key(key: str, model: nn.Module) -> str:
    """Official name of our tensor `key`: there, a stage ends with the downsampling with which timm begins the next."""
    key = re.sub(r"^norm\.", "norm3.", key)
    return re.sub(r"^layers\.(\d+)\.downsample\.", lambda m: f"layers.{int(m[1]) - 1}.downsample.", key)


def from_official(state: StateDict, model: nn.Module) -> dict[str, Tensor]:
    """Official names -> ours; drops the stored index tables, which are constants, where they equal the model's."""
    return rename_from(official_key, drop_index_tables(state, model, official_key), model)


def to_official(state: StateDict, model: nn.Module) -> dict[str, Tensor]:
    """Our names -> official, with the index tables that the official layout stores."""
    return rename_to(official_key, {**state, **index_tables(model)}, model)


def index_tables(model: nn.Module) -> dict[str, Tensor]:
    """Which relative position each pair of tokens has, by our names; timm keeps these constants out of the state dict.

    They are computed anew, so that a model on the meta device has them too.
    """
    return {
        f"{name}.relative_position_index": get_relative_position_index(*module.window_size)
        for name, module in model.named_modules()
        if isinstance(module, WindowAttention)
    }


def drop_index_tables(state: StateDict, model: nn.Module, official_key: KeyFn) -> dict[str, Tensor]:
    """`state` (official names) without the index tables that equal the model's; others stay, to be reported."""
    tables = {official_key(name, model): table for name, table in index_tables(model).items()}
    return {k: v for k, v in state.items() if not (k in tables and torch.equal(v, tables[k].to(v)))}

"""VOLO: timm's network without its auxiliary head, with a position grid that follows the input size.

The official tensor names are timm's; the feature is the class token after the class-attention blocks.
"""

from __future__ import annotations

from typing import Any

import timm
from timm.models._features import feature_take_indices
from timm.models._manipulate import checkpoint
from timm.models.volo import VOLO
from torch import Tensor, nn

from reidzoo.models._keymap import StateDict
from reidzoo.models._registry import ModelSpec
from reidzoo.models._surgery import retype
from reidzoo.models.layers import resize_grid


class ReIDVOLO(VOLO):  # type: ignore[misc]  # timm is untyped
    """timm's VOLO whose position embeddings follow the input size as in DINO (see `resize_grid`)."""

    def _step(self, index: int, x: Tensor) -> Tensor:
        """Run entry `index` of the network on ``(B, h, w, C)``; positions are added behind outlookers and pooling."""
        if index == 2:
            x = self.pos_drop(x + resize_grid(self.pos_embed, (x.shape[1], x.shape[2])))
        block = self.network[index]
        out: Tensor = checkpoint(block, x) if self.grad_checkpointing else block(x)
        return out

    def forward_tokens(self, x: Tensor) -> Tensor:
        """``(B, h, w, C)`` stem output -> ``(B, N, C)`` tokens."""
        for index in range(len(self.network)):
            x = self._step(index, x)
        return x.flatten(1, 2)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Stage outputs ``(B, C, h, w)`` and the final tokens; arguments as in timm."""
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be 'NCHW', not {output_fmt!r}")
        taken, deepest = feature_take_indices(len(self.stage_ends), indices)
        ends = {self.stage_ends[i] for i in taken}
        stop = self.stage_ends[deepest] + 1 if stop_early else len(self.network)
        intermediates = []
        x = self.patch_embed(x).permute(0, 2, 3, 1)
        for index in range(stop):
            x = self._step(index, x)
            if index in ends:
                intermediates.append((self.norm(x) if norm and index >= 2 else x).permute(0, 3, 1, 2))
        if intermediates_only:
            return intermediates
        if stop == len(self.network):
            x = x.flatten(1, 2)
            x = self.norm(x if self.post_network is None else self.forward_cls(x))
        return x, intermediates


def build(spec: ModelSpec, *, img_size: tuple[int, int], **timm_kwargs: Any) -> nn.Module:
    """Build the backbone.

    The stored position grid is that of the released weights (16 x 8) whatever `img_size` is: other input sizes
    resize it in each forward pass, as in pre-training. In older timm releases the auxiliary head would change the
    feature even without a classifier.
    """
    model: Any = timm.create_model(
        spec.timm_name, num_classes=0, img_size=spec.input_size[1:], use_aux_head=False, **timm_kwargs
    )
    retype(model, ReIDVOLO)
    model.pretrained_cfg["classifier"] = "head"
    built: nn.Module = model
    return built


def from_official(state: StateDict, model: nn.Module) -> dict[str, Tensor]:
    """The names are the same."""
    return dict(state)


def to_official(state: StateDict, model: nn.Module) -> dict[str, Tensor]:
    """The names are the same."""
    return dict(state)

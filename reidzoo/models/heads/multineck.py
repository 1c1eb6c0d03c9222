"""PASS' necks for fine-tuning: one for the class token, one for each part token.

Source: Zhu et al., "PASS: Part-Aware Self-Supervised Pre-Training for Person Re-Identification", ECCV 2022.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from reidzoo.errors import ConfigError
from reidzoo.models.heads.base import HeadOutput
from reidzoo.models.heads.bnneck import BNNeck, neck_norm
from reidzoo.models.pass_vit import PASSVisionTransformer, fuse


class MultiNeck(BNNeck):
    """A `BNNeck` for each special token of a PASS ViT: fused before the norms for metric losses, after for the classes.

    Both times as the backbone does it (its ``feat_fusion``), so the embedding before the norms is its feature.

    Args:
        in_features: Width of the fused feature: 2D, or D of a backbone with ``feat_fusion="mean"``.
        num_classes: Identities of the training set.
        neck_feature: As of `BNNeck`.
        cosine: As of `BNNeck`.
    """

    name = "multi_neck"

    def __init__(
        self, in_features: int, num_classes: int, *, neck_feature: str = "before", cosine: bool = False
    ) -> None:
        super().__init__(in_features, num_classes, neck_feature=neck_feature, cosine=cosine)
        self.options = {"neck_feature": neck_feature, "cosine": cosine}

    def attach(self, backbone: nn.Module) -> None:
        """Learn the number and width of the tokens, and how they are fused.

        Raises:
            ConfigError: The backbone is no PASS ViT, or its feature is not that of its special tokens.
        """
        vit: Any = backbone
        if not isinstance(vit, PASSVisionTransformer) or vit.global_pool != "token":
            name = getattr(vit, "reidzoo_name", "") or type(vit).__name__
            raise ConfigError(
                f"multi_neck has a neck for each part token of PASS, and the feature of {name} is not made of such. "
                "Take pass_vit_small or pass_vit_base, or leave multi_neck out."
            )
        self.fusion, self.tokens = vit.feat_fusion, vit.num_prefix_tokens
        if not isinstance(self.bottleneck, nn.ModuleList):
            self.bottleneck = nn.ModuleList(neck_norm(vit.cls_token.shape[-1]) for _ in range(self.tokens))

    def read(self, backbone: Any, x: Tensor, *camids: Tensor) -> Tensor:
        """``(B, 3, H, W)`` -> the special tokens ``(B, 4, D)``."""
        tokens: Tensor = backbone.forward_features(x, *camids)[:, : self.tokens]
        return tokens

    def forward(self, x: Tensor) -> HeadOutput | Tensor:
        """``(B, 4, D)`` -> `HeadOutput` (metric feature before the norms) in training, else the embedding."""
        feature = fuse(x, self.fusion)
        if not self.training and self.options["neck_feature"] == "before":
            return feature
        norms = cast(nn.ModuleList, self.bottleneck)
        each = [norm(token) for norm, token in zip(norms, x.unbind(1), strict=True)]
        normed = fuse(torch.stack(each, 1), self.fusion)
        return HeadOutput([self.classifier(normed)], [feature]) if self.training else normed

"""PCB: the map in horizontal parts, each with a classifier of its own.

Source: Sun et al., "Beyond Part Models: Person Retrieval with Refined Part Pooling", ECCV 2018, section 3, without the
refined pooling, and as Person_reID_baseline_pytorch trains and tests it.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from reidzoo.models._surgery import has_last_stride, set_last_stride_1
from reidzoo.models.heads.base import Head, HeadOutput
from reidzoo.models.heads.bottleneck import ClassBlock
from reidzoo.models.layers import feature_map


class PCB(Head):
    """Average-pooled horizontal parts of the backbone's map; in training each goes through its own `ClassBlock`.

    The embedding is what is pooled, without the blocks: P parts of length 1 / sqrt(P), D channels each.

    Args:
        in_features: Channels D of the backbone's map.
        num_classes: Identities of the training set.
        parts: How many parts P.
        width: Of a block's feature.
        dropout: Share of the pooled parts, and of the blocks' features, that is dropped in training.
    """

    name = "pcb"

    def __init__(
        self, in_features: int, num_classes: int, *, parts: int = 6, width: int = 256, dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.in_features, self.num_classes, self.embed_dim = in_features, num_classes, parts * in_features
        self.options = {"parts": parts, "width": width, "dropout": dropout}
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            ClassBlock(in_features, num_classes, width=width, dropout=dropout) for _ in range(parts)
        )

    def attach(self, backbone: nn.Module) -> None:
        """Let the last stage of a ResNet keep its resolution (section 3.1), so that there are rows to share out."""
        if has_last_stride(backbone):
            set_last_stride_1(backbone)

    def read(self, backbone: nn.Module, x: Tensor, *camids: Tensor) -> Tensor:
        """Return the backbone's last map ``(B, D, h, w)``.

        Raises:
            ConfigError: It has none, or one of another width.
        """
        return feature_map(backbone, x, self.in_features)

    def forward(self, x: Tensor) -> HeadOutput | Tensor:
        """``(B, D, h, w)`` -> `HeadOutput` with P logits and features in training, ``(B, D * P)`` in eval mode."""
        if self.training:
            return self.classify(x)
        embedding: Tensor = F.normalize(self._pooled(x), dim=1).flatten(1) / len(self.blocks) ** 0.5
        return embedding

    def classify(self, x: Tensor) -> HeadOutput:
        """Return logits and features of the parts in either mode."""
        parts = self.dropout(self._pooled(x)).unbind(2)
        both = [block(part) for block, part in zip(self.blocks, parts, strict=True)]
        return HeadOutput([logits for logits, _ in both], [feature for _, feature in both])

    def _pooled(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, (len(self.blocks), 1)).squeeze(-1)

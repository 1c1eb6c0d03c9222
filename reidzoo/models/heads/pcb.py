"""PCB: the map in horizontal parts, each with a classifier of its own.

Source: Sun et al., "Beyond Part Models: Person Retrieval with Refined Part Pooling", ECCV 2018, section 3, without the
refined pooling, and as Person_reID_baseline_pytorch trains and tests it.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from reidzoo.errors import ConfigError
from reidzoo.models._surgery import set_last_stride
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
        set_last_stride(backbone, 1)

    def read(self, backbone: nn.Module, x: Tensor, *camids: Tensor) -> Tensor:
        """Return the backbone's last map ``(B, D, h, w)``.

        Raises:
            ConfigError: It has none, or one of another width, or with fewer rows than there are parts.
        """
        y = feature_map(backbone, x, self.in_features)
        if y.shape[2] < len(self.blocks):
            raise ConfigError(
                f"PCB cuts the last map into {len(self.blocks)} parts, but this one has {y.shape[2]} rows: use fewer "
                "parts, or taller images (img_size=(384, 192) is the published size)."
            )
        return y

    def forward(self, x: Tensor) -> HeadOutput | Tensor:
        """``(B, D, h, w)`` -> `HeadOutput` with P logits and features in training, ``(B, D * P)`` in eval mode."""
        return self.classify(x) if self.training else self._pooled(x).flatten(1)

    def finish(self, embedding: Tensor) -> Tensor:
        """Give each part the length 1 / sqrt(P): ``(B, D * P)`` -> ``(B, D * P)``, each row of length 1."""
        parts = embedding.view(-1, self.in_features, len(self.blocks))
        normed: Tensor = F.normalize(parts, dim=1).flatten(1) / len(self.blocks) ** 0.5
        return normed

    def classify(self, x: Tensor) -> HeadOutput:
        """Return logits and features of the parts in either mode."""
        parts = self.dropout(self._pooled(x)).unbind(2)
        both = [block(part) for block, part in zip(self.blocks, parts, strict=True)]
        return HeadOutput([logits for logits, _ in both], [feature for _, feature in both])

    def _pooled(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, (len(self.blocks), 1)).squeeze(-1)

"""BNNeck: metric losses before a batch norm, classification after it.

Source: Luo et al., "Bag of Tricks and a Strong Baseline for Deep Person Re-identification", section 3.6.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from reidzoo.errors import ConfigError
from reidzoo.models._surgery import has_last_stride, set_last_stride_1
from reidzoo.models.heads.base import Head, HeadOutput
from reidzoo.models.heads.cosine import CosineClassifier
from reidzoo.models.layers import GeM, feature_map


class BNNeck(Head):
    """Batch norm with a frozen shift and a classifier without bias.

    Args:
        in_features: Width D of the backbone's feature.
        num_classes: Identities of the training set.
        neck_feature: The retrieval embedding: ``"before"`` the norm (all published ReIDZoo results) or ``"after"`` it.
        pool: ``"backbone"`` takes the backbone's feature, ``"gem"`` pools its last map anew (`GeM`).
        cosine: Classify by cosines, which margin losses want.
        last_stride_1: Let the last stage of a ResNet or DenseNet keep its resolution (the zoo's do); others stay.

    Raises:
        ConfigError: Another `neck_feature` or `pool`.
    """

    name = "bnneck"

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        neck_feature: str = "before",
        pool: str = "backbone",
        cosine: bool = False,
        last_stride_1: bool = False,
    ) -> None:
        super().__init__()
        if neck_feature not in ("before", "after"):
            raise ConfigError(f"neck_feature is 'before' or 'after', not {neck_feature!r}.")
        if pool not in ("backbone", "gem"):
            raise ConfigError(f"pool is 'backbone' or 'gem', not {pool!r}.")
        self.num_classes, self.embed_dim = num_classes, in_features
        self.options: dict[str, Any] = {
            "neck_feature": neck_feature,
            "pool": pool,
            "cosine": cosine,
            "last_stride_1": last_stride_1,
        }
        self.pool = GeM() if pool == "gem" else None
        self.bottleneck = nn.BatchNorm1d(in_features)
        # Frozen at zero, so that the classes' hyperplanes go through the origin that cosine retrieval uses.
        self.bottleneck.bias.requires_grad_(False)
        if cosine:
            self.classifier: nn.Linear = CosineClassifier(in_features, num_classes)
        else:
            self.classifier = nn.Linear(in_features, num_classes, bias=False)
            nn.init.normal_(self.classifier.weight, std=0.001)

    def attach(self, backbone: nn.Module) -> None:
        """Set the last stride."""
        if self.options["last_stride_1"] and has_last_stride(backbone):
            set_last_stride_1(backbone)

    def read(self, backbone: nn.Module, x: Tensor, *camids: Tensor) -> Tensor:
        """Return the backbone's feature ``(B, D)``, or its last map pooled anew."""
        if self.pool is None:
            feature: Tensor = backbone(x, *camids)
        else:
            feature = self.pool(feature_map(backbone, x, self.embed_dim))
        return feature

    def forward(self, x: Tensor) -> HeadOutput | Tensor:
        """``(B, D)`` -> `HeadOutput` (metric feature before the norm) in training, ``(B, D)`` in eval mode."""
        if not self.training and self.options["neck_feature"] == "before":
            return x
        normed: Tensor = self.bottleneck(x)
        return HeadOutput([self.classifier(normed)], [x]) if self.training else normed

"""BNNeck: metric losses before a batch norm, classification after it.

Source: Luo et al., "Bag of Tricks and a Strong Baseline for Deep Person Re-identification", section 3.6.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from reidzoo.errors import ConfigError
from reidzoo.models._surgery import set_last_stride
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
        map_norm: A batch norm on the last map, in front of the pooling (fast-reid's extra norm); where `pool` is
            ``"backbone"``, the average of that map takes the place of the backbone's feature.
        width: Of the embedding: a linear layer without bias reduces the feature before all else; 0 keeps D.
        cosine: Classify by cosines, which margin losses want.
        last_stride: Of a ResNet or DenseNet, 1 or 2; 0 leaves it as it is. Other networks have none to set.

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
        map_norm: bool = False,
        width: int = 0,
        cosine: bool = False,
        last_stride: int = 0,
    ) -> None:
        super().__init__()
        if neck_feature not in ("before", "after"):
            raise ConfigError(f"neck_feature is 'before' or 'after', not {neck_feature!r}.")
        if pool not in ("backbone", "gem"):
            raise ConfigError(f"pool is 'backbone' or 'gem', not {pool!r}.")
        self.in_features, self.num_classes, self.embed_dim = in_features, num_classes, width or in_features
        self.options: dict[str, Any] = {
            "neck_feature": neck_feature,
            "pool": pool,
            "map_norm": map_norm,
            "width": width,
            "cosine": cosine,
            "last_stride": last_stride,
        }
        self.pool = GeM() if pool == "gem" else None
        self.map_norm = nn.BatchNorm2d(in_features) if map_norm else None
        self.reduce = nn.Linear(in_features, width, bias=False) if width else nn.Identity()
        if isinstance(self.reduce, nn.Linear):
            nn.init.xavier_uniform_(self.reduce.weight)
        self.bottleneck: nn.Module = neck_norm(self.embed_dim)
        if cosine:
            self.classifier: nn.Linear = CosineClassifier(self.embed_dim, num_classes)
        else:
            self.classifier = nn.Linear(self.embed_dim, num_classes, bias=False)
            nn.init.normal_(self.classifier.weight, std=0.001)

    def attach(self, backbone: nn.Module) -> None:
        """Set the last stride; from then on the options say which one it is."""
        self.options["last_stride"] = set_last_stride(backbone, self.options["last_stride"])

    def read(self, backbone: nn.Module, x: Tensor, *camids: Tensor) -> Tensor:
        """Return the backbone's feature ``(B, D)``, or its last map pooled anew."""
        if self.pool is None and self.map_norm is None:
            feature: Tensor = backbone(x, *camids)
            return feature
        y = feature_map(backbone, x, self.in_features)
        y = self.map_norm(y) if self.map_norm else y
        return self.pool(y) if self.pool else y.mean((2, 3))

    def forward(self, x: Tensor) -> HeadOutput | Tensor:
        """``(B, D)`` -> `HeadOutput` (metric feature before the norm) in training, ``(B, embed_dim)`` in eval mode."""
        x = self.reduce(x)
        if not self.training and self.options["neck_feature"] == "before":
            return x
        normed: Tensor = self.bottleneck(x)
        return HeadOutput([self.classifier(normed)], [x]) if self.training else normed


def neck_norm(width: int) -> nn.BatchNorm1d:
    """Return a batch norm ``(B, width)`` whose shift is frozen at zero.

    So the classes' hyperplanes go through the origin, which cosine retrieval measures from.
    """
    norm = nn.BatchNorm1d(width)
    norm.bias.requires_grad_(False)
    return norm

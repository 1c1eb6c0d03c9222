"""BNNeck: metric losses before a batch norm, classification after it.

Source: Luo et al., "Bag of Tricks and a Strong Baseline for Deep Person Re-identification", section 3.6.
"""

from __future__ import annotations

from torch import Tensor, nn

from reidzoo.errors import ConfigError
from reidzoo.models.heads.base import Head, HeadOutput


class BNNeck(Head):
    """Batch norm with a frozen shift and a classifier without bias.

    Args:
        in_features: Width D of the backbone's feature.
        num_classes: Identities of the training set.
        neck_feature: The retrieval embedding: ``"before"`` the norm (all published ReIDZoo results) or ``"after"`` it.

    Raises:
        ConfigError: Another `neck_feature`.
    """

    name = "bnneck"

    def __init__(self, in_features: int, num_classes: int, *, neck_feature: str = "before") -> None:
        super().__init__()
        if neck_feature not in ("before", "after"):
            raise ConfigError(f"neck_feature is 'before' or 'after', not {neck_feature!r}.")
        self.num_classes, self.embed_dim = num_classes, in_features
        self.options = {"neck_feature": neck_feature}
        self.bottleneck = nn.BatchNorm1d(in_features)
        # Frozen at zero, so that the classes' hyperplanes go through the origin that cosine retrieval uses.
        self.bottleneck.bias.requires_grad_(False)
        self.classifier = nn.Linear(in_features, num_classes, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.001)

    def forward(self, x: Tensor) -> HeadOutput | Tensor:
        """``(B, D)`` -> `HeadOutput` (metric feature before the norm) in training, ``(B, D)`` in eval mode."""
        if not self.training and self.options["neck_feature"] == "before":
            return x
        normed: Tensor = self.bottleneck(x)
        return HeadOutput([self.classifier(normed)], [x]) if self.training else normed

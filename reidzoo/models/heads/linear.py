"""The plainest head: one linear classifier on the feature."""

from __future__ import annotations

from torch import Tensor, nn

from reidzoo.models.heads.base import Head, HeadOutput


class LinearHead(Head):
    """Linear classifier (weights N(0, 0.001), zero bias) on the backbone's feature, which is also the embedding.

    Args:
        in_features: Width D of the backbone's feature.
        num_classes: Identities of the training set.
    """

    name = "linear"

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes, self.embed_dim = num_classes, in_features
        self.options = {}
        self.classifier = nn.Linear(in_features, num_classes)
        nn.init.normal_(self.classifier.weight, std=0.001)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> HeadOutput | Tensor:
        """``(B, D)`` -> `HeadOutput` in training, the same ``(B, D)`` in eval mode."""
        return HeadOutput([self.classifier(x)], [x]) if self.training else x

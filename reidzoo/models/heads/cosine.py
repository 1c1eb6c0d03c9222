"""A classifier that says cosines; the margin that training subtracts is no part of it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CosineClassifier(nn.Linear):
    """Cosines between a feature and one direction per class: the classifier of ArcFace, CosFace, circle loss.

    It does not need labels, also in training: a function of `reidzoo.training.losses.MARGIN` makes logits of the
    cosines. The weight starts as in any linear layer of torch; its length does not count.

    Args:
        in_features: D.
        num_classes: C, identities of the training set.

    Attributes:
        weight: (C, D).
    """

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__(in_features, num_classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, D)`` -> ``(B, C)`` in [-1, 1], float32 also under autocast: margins are lost in half precision."""
        with torch.autocast(x.device.type, enabled=False):
            exact = x.to(torch.promote_types(x.dtype, self.weight.dtype))
            return F.linear(F.normalize(exact, dim=1), F.normalize(self.weight, dim=1))

"""Margin softmaxes beside a classifier: each identity has a proxy, a direction that its images are to point in."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reidzoo.training.losses._pairs import over_all_ranks
from reidzoo.training.losses.margin import arcface, cosface, sphereface

# (cosines (B, C), pids (B,)) -> logits (B, C), with the scales and margins of the layumi baseline.
PROXIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "arcface": partial(arcface, scale=64, margin=math.radians(28.6)),
    "cosface": partial(cosface, scale=64, margin=0.35),
    "sphereface": partial(sphereface, scale=1, margin=4),
}


class ProxyLoss(nn.Module):
    """Cross-entropy of the cosines between images and one proxy per identity, the right one with a margin.

    In the layumi baseline nobody trains the proxies: they stay the directions that were drawn.

    Args:
        name: ``arcface``, ``cosface`` or ``sphereface``, see `PROXIES`.
        num_classes: C, identities of the training set.
        dim: D, width of the features.
        learned: Whether the proxies are to be trained.

    Attributes:
        weight: (C, D), drawn from N(0, 1).
    """

    def __init__(self, name: str, num_classes: int, dim: int, *, learned: bool = True) -> None:
        super().__init__()
        self.name = name
        self.weight = nn.Parameter(torch.randn(num_classes, dim), requires_grad=learned)

    def forward(self, features: Tensor, pids: Tensor) -> Tensor:
        """Return the loss.

        Args:
            features: (B, D), normalised here.
            pids: (B,) in 0 .. C - 1.

        Returns:
            Scalar: the mean over the images of all ranks. Every rank gets the whole gradient of the proxies.
        """
        return _proxy_loss(features, pids, weight=self.weight, logits=PROXIES[self.name])


@over_all_ranks
def _proxy_loss(
    features: Tensor, pids: Tensor, *, weight: Tensor, logits: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    cosines = F.linear(F.normalize(features, dim=1), F.normalize(weight, dim=1).to(features.dtype))
    return F.cross_entropy(logits(cosines, pids), pids)

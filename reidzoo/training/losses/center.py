"""Centre loss (Wen et al., "A Discriminative Feature Learning Approach for Deep Face Recognition", ECCV 2016)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reidzoo.training.losses._pairs import over_all_ranks


class CenterLoss(nn.Module):
    """Half the squared distance of each image to the centre of its identity; the centres follow their images.

    The centres need no optimiser: in training mode each call moves those of the batch's identities by the paper's
    rule, ``c <- c - rate * sum(c - x) / (1 + n)`` over the n images of the identity. Save them with the network.

    Args:
        num_classes: C, identities of the training set.
        dim: D, width of the features.
        rate: alpha, how fast the centres follow, 0 to 1.

    Attributes:
        centers: (C, D) float32 buffer; starts at 0.
    """

    centers: Tensor

    def __init__(self, num_classes: int, dim: int, rate: float = 0.5) -> None:
        super().__init__()
        self.rate = rate
        self.register_buffer("centers", torch.zeros(num_classes, dim))

    def forward(self, features: Tensor, pids: Tensor) -> Tensor:
        """Return the loss to the centres as they were, and in training mode move them.

        Args:
            features: (B, D), as they are.
            pids: (B,) in 0 .. C - 1.

        Returns:
            Scalar: the mean over the images of all ranks.
        """
        return _center_loss(features, pids, centers=self.centers, rate=self.rate if self.training else 0.0)


@over_all_ranks
def _center_loss(features: Tensor, pids: Tensor, *, centers: Tensor, rate: float) -> Tensor:
    offsets = features - centers[pids]  # indexing copies: the centres may move before the backward
    if rate:
        same = (pids[:, None] == pids).sum(1, keepdim=True)
        centers.index_add_(0, pids, (rate * offsets.detach() / (1 + same)).to(centers.dtype))
    return offsets.square().sum(1).mean() / 2

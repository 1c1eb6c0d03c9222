"""Contrastive loss: positives together, negatives apart.

Source: Hadsell et al., "Dimensionality Reduction by Learning an Invariant Mapping", CVPR 2006, with distances in the
place of their squares, as pytorch-metric-learning and the layumi baseline have it.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from reidzoo.training.losses._pairs import euclidean, mean_of_nonzero, over_all_ranks, positives_and_negatives


@over_all_ranks
def contrastive(
    features: Tensor, pids: Tensor, *, positive_margin: float = 0.0, negative_margin: float = 1.0
) -> Tensor:
    """Add the mean of ``relu(d_p - positive_margin)`` and that of ``relu(negative_margin - d_n)``.

    Args:
        features: (B, D), Euclidean distance is taken as they are; the margins mean the unit sphere.
        pids: (B,) integer labels; a batch without positive pairs has the second term only.
        positive_margin: positives nearer than this cost nothing.
        negative_margin: negatives farther than this cost nothing.

    Returns:
        Scalar; either mean is over the pairs that cost something.
    """
    positive, negative = positives_and_negatives(pids)
    distances = euclidean(features)
    together = mean_of_nonzero(F.relu(distances - positive_margin) * positive)
    apart = mean_of_nonzero(F.relu(negative_margin - distances) * negative)
    return together + apart

"""Circle loss on pairs (its form on class labels is `margin.circle_softmax`).

Source: Sun et al., "Circle Loss: A Unified Perspective of Pair Similarity Optimization", CVPR 2020, equation 6.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from reidzoo.training.losses._pairs import cosine, logsumexp_where, over_all_ranks, positives_and_negatives


@over_all_ranks
def circle(features: Tensor, pids: Tensor, *, margin: float = 0.25, scale: float = 32) -> Tensor:
    """Ask every positive pair of the batch to be more similar than every negative pair, the worst ones the most.

    Pairs are compared over the whole batch, not anchor by anchor. Each has its own weight: the farther a similarity is
    from its optimum, the larger; no gradient flows through the weights.

    Args:
        features: (B, D), normalised here.
        pids: (B,) integer labels. A batch without positive (or without negative) pairs gives 0, with zero gradient.
        margin: m; similarities are to be above 1 - m or below m.
        scale: gamma.

    Returns:
        Scalar: one logarithm for the batch, not a mean over it.
    """
    similarity = cosine(features)
    each_once = torch.ones_like(similarity, dtype=torch.bool).triu(1)
    positive, negative = positives_and_negatives(pids)
    far = scale * F.relu(1 + margin - similarity.detach()) * (1 - margin - similarity)
    near = scale * F.relu(similarity.detach() + margin) * (similarity - margin)
    worst_positive = logsumexp_where(far, positive & each_once, (0, 1))
    worst_negative = logsumexp_where(near, negative & each_once, (0, 1))
    return F.softplus(worst_negative + worst_positive)

"""Generalised lifted structure loss.

Source: Hermans et al., "In Defense of the Triplet Loss for Person Re-Identification", 2017, equation 4.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from reidzoo.training.losses._pairs import euclidean, logsumexp_where, over_all_ranks, positives_and_negatives


@over_all_ranks
def lifted(features: Tensor, pids: Tensor, *, margin: float = 1.0) -> Tensor:
    """Compare a soft maximum of each image's positives with a soft minimum of its negatives.

    Args:
        features: (B, D), Euclidean distance is taken as they are; the margin means the unit sphere.
        pids: (B,) integer labels. An image without positives (or without negatives) has only the other sum, so that
            batches that are not PK batches teach too; the paper has no such images.
        margin: how much farther than the positives the negatives are to be.

    Returns:
        Scalar: the mean over all images of ``relu(log sum_p exp(d_p) + log sum_n exp(margin - d_n))``.
    """
    distances = euclidean(features)
    positive, negative = positives_and_negatives(pids)
    sums = [
        logsumexp_where(x, mask, 1).masked_fill(~mask.any(1), 0.0)
        for x, mask in ((distances, positive), (margin - distances, negative))
    ]
    return F.relu(sums[0] + sums[1]).mean()

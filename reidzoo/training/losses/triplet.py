"""Triplet losses: an image is to be nearer to its identity than to the others.

Source: Hermans et al., "In Defense of the Triplet Loss for Person Re-Identification", 2017, section 2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from reidzoo.training.losses._pairs import (
    cosine,
    euclidean,
    mean_of_nonzero,
    over_all_ranks,
    positives_and_negatives,
)


@over_all_ranks
def batch_hard_triplet(features: Tensor, pids: Tensor, *, margin: float | None = None) -> Tensor:
    """Compare each image with its farthest positive and its nearest negative of the batch (equation 5).

    An image without a positive is its own, at distance 0 (1e-6); without a negative its term is 0.

    Args:
        features: (B, D), Euclidean distance is taken as they are (before the BNNeck, not normalised).
        pids: (B,) integer labels; identities may have different numbers of images.
        margin: hinge margin, or None for the soft margin ``log(1 + exp(d_ap - d_an))``.

    Returns:
        Scalar: the mean over the anchors of all ranks.
    """
    distances = euclidean(features)
    same = pids[:, None] == pids
    hardest_positive = distances.masked_fill(~same, -torch.inf).amax(1)
    nearest_negative = distances.masked_fill(same, torch.inf).amin(1)
    return _cost(hardest_positive - nearest_negative, margin).mean()


@over_all_ranks
def batch_all_triplet(features: Tensor, pids: Tensor, *, margin: float | None = 0.3) -> Tensor:
    """Compare each image with every positive and every negative of the batch (equation 6).

    The hinge takes time and memory of B^2 log B, the soft margin of B^3.

    Args:
        features: (B, D), Euclidean distance is taken as they are.
        pids: (B,) integer labels.
        margin: hinge margin, or None for the soft margin.

    Returns:
        Scalar: the mean over the triplets that cost something (section 2, "BA != 0"); 0 in a batch without triplets.
    """
    distances = euclidean(features)
    positive, negative = positives_and_negatives(pids)
    if margin is not None:
        return _mean_hinge(distances, positive, negative, margin)
    gaps = distances[:, :, None] - distances[:, None, :]
    return mean_of_nonzero(_cost(gaps, margin) * (positive[:, :, None] & negative[:, None, :]))


@over_all_ranks
def mined_triplet(features: Tensor, pids: Tensor, *, margin: float = 0.3, epsilon: float = 0.1) -> Tensor:
    """Compare each image with those positives and negatives that are hard in view of each other, by cosine.

    A positive counts if it is less similar than the most similar negative plus `epsilon`, a negative if it is more
    similar than the least similar positive minus `epsilon` (Wang et al., "Multi-Similarity Loss", CVPR 2019,
    equations 7 and 8); then every triplet of those. It is the triplet loss of the layumi baseline.

    Args:
        features: (B, D); normalised here, distances are those on the unit sphere.
        pids: (B,) integer labels; an image without a positive or without a negative has no triplet.
        margin: hinge margin.
        epsilon: how much easier than the hardest one a pair may be.

    Returns:
        Scalar: the mean over the triplets that cost something; 0 in a batch without triplets.
    """
    features = F.normalize(features, dim=1)
    positive, negative = positives_and_negatives(pids)
    similarity = cosine(features).detach()
    nearest_negative = similarity.masked_fill(~negative, -torch.inf).amax(1, keepdim=True)
    farthest_positive = similarity.masked_fill(~positive, torch.inf).amin(1, keepdim=True)
    positive = positive & (similarity - epsilon < nearest_negative)
    negative = negative & (similarity + epsilon > farthest_positive)
    return _mean_hinge(euclidean(features), positive, negative, margin)


def _mean_hinge(distances: Tensor, positive: Tensor, negative: Tensor, margin: float) -> Tensor:
    """Mean of the ``d_ap - d_an + margin`` above 0, over all (row, positive, negative) under the two (B, B) masks.

    With a row's negatives in order, those that a positive p has hinges with are the first n, nearer than
    ``d_ap + margin``: their hinges add up to ``n (d_ap + margin)`` less the sum of the first n distances.
    """
    nearest = distances.masked_fill(~negative, torch.inf).sort(1).values
    first_n = F.pad(nearest.masked_fill(nearest.isinf(), 0).cumsum(1), (1, 0))
    reach = distances + margin
    n = torch.searchsorted(nearest.detach(), reach.detach())
    hinges = (n * reach - first_n.gather(1, n)) * positive
    return hinges.sum() / (n * positive).sum().clamp(min=1)


def _cost(gaps: Tensor, margin: float | None) -> Tensor:
    return F.softplus(gaps) if margin is None else F.relu(gaps + margin)

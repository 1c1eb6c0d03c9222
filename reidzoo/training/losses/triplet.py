"""Batch-hard triplet loss (Hermans et al., "In Defense of the Triplet Loss", 2017, equation 5)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from reidzoo.training._distributed import gather_with_grad


def batch_hard_triplet(features: Tensor, pids: Tensor, *, margin: float | None = None) -> Tensor:
    """Compare each image with its farthest positive and its nearest negative of the batch.

    Under DDP the features of all ranks are candidates, with gradients, so that N ranks of B images give the loss and
    the gradients of one rank of N B images.

    Args:
        features: (B, D), Euclidean distance is taken as they are (before the BNNeck, not normalised).
        pids: (B,) integer labels; every image needs a positive and a negative in the (global) batch.
        margin: hinge margin, or None for the soft margin ``log(1 + exp(d_ap - d_an))``.

    Returns:
        Scalar: the mean over this rank's anchors.
    """
    everyone = gather_with_grad(features).float()
    labels = gather_with_grad(pids)
    distances = euclidean(features.float(), everyone)
    same = pids[:, None] == labels[None, :]
    hardest_positive = distances.masked_fill(~same, -torch.inf).amax(1)
    nearest_negative = distances.masked_fill(same, torch.inf).amin(1)
    gap = hardest_positive - nearest_negative
    return (F.softplus(gap) if margin is None else F.relu(gap + margin)).mean()


def euclidean(a: Tensor, b: Tensor) -> Tensor:
    """Pairwise distances (N, D) x (M, D) -> (N, M); squares are at least 1e-12: a root has no slope at 0."""
    squared = a.square().sum(1, keepdim=True) + b.square().sum(1) - 2 * a @ b.T
    return squared.clamp(min=1e-12).sqrt()

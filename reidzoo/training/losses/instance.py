"""Instance loss inside a batch: each image (or each identity) is a class of its own.

Source: Zheng et al., "Dual-Path Convolutional Image-Text Embeddings with Instance Loss", TOMM 2020, in the form of the
layumi baseline, where the batch itself is the classifier.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from reidzoo.training.losses._pairs import cosine, over_all_ranks


@over_all_ranks
def instance(features: Tensor, pids: Tensor, *, scale: float = 32) -> Tensor:
    """Cross-entropy of the scaled cosines between the images, where the right answer is the image itself.

    Args:
        features: (B, D), normalised here.
        pids: (B,), not looked at: other images of the same identity are pushed away like all others.
        scale: gamma, an inverse temperature.

    Returns:
        Scalar: the mean over the images.
    """
    return F.cross_entropy(scale * cosine(features), torch.arange(len(features), device=features.device))


@over_all_ranks
def instance_id(features: Tensor, pids: Tensor, *, scale: float = 32) -> Tensor:
    """Do the same with identities: each is the mean of its images' normalised features.

    Args:
        features: (B, D), normalised here; the means are not normalised again.
        pids: (B,) integer labels; 0 in a batch of one identity.
        scale: gamma, an inverse temperature.

    Returns:
        Scalar: the mean over the identities.
    """
    same = pids[:, None] == pids
    means = same.to(features.dtype) @ F.normalize(features, dim=1) / same.sum(1, keepdim=True)
    # The first image of an identity stands for it. Selecting those rows would make the host wait for their number.
    first = same.int().argmax(1)
    stands = first == torch.arange(len(pids), device=pids.device)
    logits = (scale * means @ means.T).masked_fill(~stands, -torch.inf)
    return (F.cross_entropy(logits, first, reduction="none") * stands).sum() / stands.sum()

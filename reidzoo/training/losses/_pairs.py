"""What losses that compare the images of a batch share: the batch of all ranks, its pairs, means over some of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from reidzoo.training._distributed import gather_with_grad

Loss = TypeVar("Loss", bound=Callable[..., Tensor])


def over_all_ranks(loss: Loss) -> Loss:
    """Let ``loss(features, pids, ...)`` see the batch of all ranks, in float32 (float64 stays) also under autocast.

    Every rank computes the loss of the whole batch, gradients flow back to the rank each row came from, and DDP takes
    their mean: N ranks of B images give the value and the gradients of one rank of N B images, whatever the loss.
    """

    @wraps(loss)
    def of_everyone(features: Tensor, pids: Tensor, **settings: object) -> Tensor:
        if features.ndim != 2 or pids.shape != features.shape[:1]:
            shapes = f"{tuple(features.shape)} and {tuple(pids.shape)}"
            raise ValueError(f"{loss.__name__} takes features (B, D) and pids (B,), not {shapes}")
        with torch.autocast(features.device.type, enabled=False):
            exact = features.to(torch.promote_types(features.dtype, torch.float32))
            return loss(gather_with_grad(exact), gather_with_grad(pids), **settings)

    return cast(Loss, of_everyone)


def positives_and_negatives(pids: Tensor) -> tuple[Tensor, Tensor]:
    """Return two (B, B) masks: other images of the row's identity, and images of other identities."""
    same = pids[:, None] == pids
    myself = torch.eye(len(pids), dtype=torch.bool, device=pids.device)
    return same & ~myself, ~same


def euclidean(x: Tensor) -> Tensor:
    """Distances (B, B) between the rows of `x` (B, D); squares are at least 1e-12: a root has no slope at 0."""
    squared = x.square().sum(1, keepdim=True) + x.square().sum(1) - 2 * x @ x.T
    return squared.clamp(min=1e-12).sqrt()


def cosine(x: Tensor) -> Tensor:
    """Cosines (B, B) between the rows of `x` (B, D), which need not be normalised."""
    x = F.normalize(x, dim=1)
    return x @ x.T


def mean_of_nonzero(costs: Tensor) -> Tensor:
    """Mean of the entries of `costs` (none below 0) above 0; 0, with zero gradient, where there is none."""
    return costs.sum() / (costs > 0).sum().clamp(min=1)


def logsumexp_where(x: Tensor, mask: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """``logsumexp`` of the entries under `mask`: -inf, with zero gradient, where there is none."""
    return x.masked_fill(~mask, -torch.inf).logsumexp(dim)

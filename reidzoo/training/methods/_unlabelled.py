"""Images without identities in fine-tuning: what the network says of one view, its teacher says of another.

The teacher is an average of the network over the ends of the last epochs. Source: Zheng et al.,
Person_reID_baseline_pytorch, which does this with DG-Market in the last fifth of a run.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from reidzoo.data.samplers import STREAM, EpochSampler

MOMENTUM = 0.996
"""What the teacher keeps of itself at the end of an epoch."""


def first_epoch(epochs: int) -> int:
    """Return the epoch, from 0, at whose end the teacher begins as a copy; from the next one on it teaches."""
    return epochs * 4 // 5


class PairSampler(EpochSampler):
    """Rows of U images and the same U images again, whose second draws are other views; one row per step and rank.

    Args:
        images: how many there are.
        first: number of the first of them.
        pairs: U.
        world_size: number of ranks.
        rank: whose share `epoch` returns.
        seed: not negative.
    """

    def __init__(self, images: int, first: int, *, pairs: int, world_size: int, rank: int, seed: int) -> None:
        super().__init__(2 * pairs, world_size, rank, seed)
        self._images, self._first, self._pairs, self._steps = images, first, pairs, 0

    def beside(self, plan: np.ndarray, epoch: int) -> np.ndarray:
        """Add columns (steps, 2 U, 2) to the plan (steps, B, 2) of labelled images."""
        self._steps = len(plan)
        return np.concatenate([plan, self.epoch(epoch)], axis=1)

    def draw_epoch(self, epoch: int) -> np.ndarray:
        """Draw permutation after permutation of the images, as far as the steps go."""
        rng = np.random.default_rng((self.seed, epoch, STREAM, 1))
        needed = self._steps * self.world_size * self._pairs
        orders = [rng.permutation(self._images) for _ in range(-(-needed // self._images))]
        chosen = np.concatenate(orders)[:needed].reshape(self._steps, self.world_size, 1, self._pairs)
        return self._first + np.tile(chosen, (1, 1, 2, 1)).reshape(self._steps, -1)


def opinion(logits: list[Tensor]) -> Tensor:
    """Return the mean (U, C), float32, of the softmaxes of the classifiers' logits (U, C)."""
    return torch.stack([x.float() for x in logits]).softmax(-1).mean(0)


def disagreement(p: Tensor, q: Tensor) -> Tensor:
    """Half of KL(p || q) + KL(q || p), a mean over the images.

    Args:
        p: (U, C) probabilities.
        q: the same.

    Returns:
        Scalar.
    """
    tiny = torch.finfo(p.dtype).tiny
    return ((p - q) * (p.clamp(min=tiny).log() - q.clamp(min=tiny).log())).sum(1).mean() / 2


@torch.no_grad()
def said_by(model: Any, images: Tensor) -> list[Tensor]:
    """Return what a `ReIDModel` classifies `images` as, without dropout and batch statistics: logits by classifier."""
    model.eval()
    logits: list[Tensor] = model.head.classify(model.head.read(model.backbone, images)).logits
    return logits

"""Losses, one idea per file."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from reidzoo.training.losses.center import CenterLoss
from reidzoo.training.losses.circle import circle
from reidzoo.training.losses.contrastive import contrastive
from reidzoo.training.losses.cross_entropy import cross_entropy
from reidzoo.training.losses.identity_distillation import IdentityDistillationLoss
from reidzoo.training.losses.instance import instance, instance_id
from reidzoo.training.losses.lifted import lifted
from reidzoo.training.losses.margin import amsoftmax, arcface, circle_softmax, cosface, sphereface
from reidzoo.training.losses.proxies import PROXIES, ProxyLoss
from reidzoo.training.losses.triplet import batch_all_triplet, batch_hard_triplet, mined_triplet

# (features (B, D), pids (B,), **settings) -> scalar: compare the images of a batch, of all ranks.
PAIRWISE: dict[str, Callable[..., Tensor]] = {
    "triplet": batch_hard_triplet,
    "triplet_all": batch_all_triplet,
    "triplet_mined": mined_triplet,
    "contrastive": contrastive,
    "circle": circle,
    "lifted": lifted,
    "instance": instance,
    "instance_id": instance_id,
}
# (cosines (B, C), pids (B,), scale=, margin=) -> logits (B, C) for the cross-entropy.
MARGIN: dict[str, Callable[..., Tensor]] = {
    "arcface": arcface,
    "cosface": cosface,
    "amsoftmax": amsoftmax,
    "circle": circle_softmax,
    "sphereface": sphereface,
}

__all__ = [
    "MARGIN",
    "PAIRWISE",
    "PROXIES",
    "CenterLoss",
    "IdentityDistillationLoss",
    "ProxyLoss",
    "amsoftmax",
    "arcface",
    "batch_all_triplet",
    "batch_hard_triplet",
    "circle",
    "circle_softmax",
    "contrastive",
    "cosface",
    "cross_entropy",
    "instance",
    "instance_id",
    "lifted",
    "mined_triplet",
    "sphereface",
]

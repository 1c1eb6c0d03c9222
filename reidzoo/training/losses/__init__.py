"""Losses, one idea per file."""

from reidzoo.training.losses.identity_distillation import IdentityDistillationLoss
from reidzoo.training.losses.triplet import batch_hard_triplet

__all__ = ["IdentityDistillationLoss", "batch_hard_triplet"]

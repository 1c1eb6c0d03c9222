"""What sits on a backbone: retrieval heads for fine-tuning, the projection head for pre-training."""

from __future__ import annotations

from reidzoo.models.heads.base import Head, HeadOutput, ReIDModel, create_head
from reidzoo.models.heads.bnneck import BNNeck
from reidzoo.models.heads.dino import DINOHead
from reidzoo.models.heads.linear import LinearHead

__all__ = ["BNNeck", "DINOHead", "Head", "HeadOutput", "LinearHead", "ReIDModel", "create_head"]

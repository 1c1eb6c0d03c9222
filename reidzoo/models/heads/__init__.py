"""What sits on a backbone: retrieval heads for fine-tuning, the projection head for pre-training."""

from __future__ import annotations

from reidzoo.models.heads.base import Head, HeadOutput, ReIDModel, create_head
from reidzoo.models.heads.bnneck import BNNeck
from reidzoo.models.heads.bottleneck import Bottleneck
from reidzoo.models.heads.cosine import CosineClassifier
from reidzoo.models.heads.dino import DINOHead
from reidzoo.models.heads.jpm import JPM
from reidzoo.models.heads.linear import LinearHead
from reidzoo.models.heads.mgn import MGN
from reidzoo.models.heads.multineck import MultiNeck
from reidzoo.models.heads.pcb import PCB

__all__ = [
    "JPM",
    "MGN",
    "PCB",
    "BNNeck",
    "Bottleneck",
    "CosineClassifier",
    "DINOHead",
    "Head",
    "HeadOutput",
    "LinearHead",
    "MultiNeck",
    "ReIDModel",
    "create_head",
]

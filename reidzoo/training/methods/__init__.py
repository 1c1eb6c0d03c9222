"""Training methods by name: for each, its settings and its story."""

from __future__ import annotations

from dataclasses import dataclass

from reidzoo._registry import Registry
from reidzoo.errors import UnknownMethodError
from reidzoo.training.configs import CIONConfig, DINOConfig, TrainConfig, TransReIDConfig


@dataclass(frozen=True)
class MethodInfo:
    """A registered method. `cls` is ``module:Class``, imported when the method runs."""

    stage: str
    summary: str
    config: type[TrainConfig]
    cls: str


PRETRAIN: Registry[MethodInfo] = Registry("pre-training method", UnknownMethodError)
FINETUNE: Registry[MethodInfo] = Registry("fine-tuning method", UnknownMethodError)

PRETRAIN.add(
    "cion",
    MethodInfo(
        "pretrain",
        "identity-guided self-distillation (Zuo et al., NeurIPS 2024)",
        CIONConfig,
        "reidzoo.training.methods.cion:CION",
    ),
)
PRETRAIN.add(
    "dino",
    MethodInfo(
        "pretrain",
        "self-distillation without identities (Caron et al., ICCV 2021), as TransReID-SSL does it",
        DINOConfig,
        "reidzoo.training.methods.dino:DINO",
    ),
)
FINETUNE.add(
    "transreid",
    MethodInfo(
        "finetune",
        "BNNeck, cross-entropy and batch-hard triplet, in the setting of TransReID (He et al., ICCV 2021)",
        TransReIDConfig,
        "reidzoo.training.methods.supervised:Supervised",
    ),
)

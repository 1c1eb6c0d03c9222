"""Settings of the training methods: one dataclass each, the source of Python keywords, CLI flags and their help."""

from __future__ import annotations

from reidzoo.training.configs._base import TrainConfig, make_config, option
from reidzoo.training.configs._finetuning import (
    METRIC_LOSSES,
    BaselineConfig,
    BoTConfig,
    FinetuneConfig,
    MGNConfig,
    PCBConfig,
    TransReIDConfig,
)
from reidzoo.training.configs._pretraining import CIONConfig, DINOConfig, PretrainConfig

__all__ = [
    "METRIC_LOSSES",
    "BaselineConfig",
    "BoTConfig",
    "CIONConfig",
    "DINOConfig",
    "FinetuneConfig",
    "MGNConfig",
    "PCBConfig",
    "PretrainConfig",
    "TrainConfig",
    "TransReIDConfig",
    "make_config",
    "option",
]

"""Training methods by name: for each, its settings and its story."""

from __future__ import annotations

from dataclasses import dataclass

from reidzoo._registry import Registry
from reidzoo.errors import UnknownMethodError
from reidzoo.training.configs import (
    BaselineConfig,
    BoTConfig,
    CIONConfig,
    DINOConfig,
    MGNConfig,
    PCBConfig,
    TrainConfig,
    TransReIDConfig,
)


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
        "reidzoo.training.methods.transreid:TransReID",
    ),
)
FINETUNE.add(
    "mgn",
    MethodInfo(
        "finetune",
        "three branches, eight parts (Wang et al., ACM MM 2018), in the setting of fast-reid and CION at 384x128",
        MGNConfig,
        "reidzoo.training.methods.mgn:MGN",
    ),
)
FINETUNE.add(
    "bot",
    MethodInfo(
        "finetune",
        "bag of tricks (Luo et al., CVPRW 2019): label smoothing, centre loss, Adam with warm-up and steps",
        BoTConfig,
        "reidzoo.training.methods.bot:BoT",
    ),
)
FINETUNE.add(
    "baseline",
    MethodInfo(
        "finetune",
        "the baseline of Zheng et al. (layumi): a 512-d bottleneck, metric losses by name, SGD",
        BaselineConfig,
        "reidzoo.training.methods.baseline:Baseline",
    ),
)
FINETUNE.add(
    "pcb",
    MethodInfo(
        "finetune",
        "the baseline on six horizontal parts (Sun et al., ECCV 2018)",
        PCBConfig,
        "reidzoo.training.methods.pcb:PCB",
    ),
)

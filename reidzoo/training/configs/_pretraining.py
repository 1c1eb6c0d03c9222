"""Settings of the pre-training methods."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from reidzoo.training.configs._base import TrainConfig, option

Schedule = tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(TrainConfig):
    """What the self-distillation methods share; the values are DINO's (Caron et al., ICCV 2021) unless redefined."""

    lr: float = option(5e-4, "learning rate for 256 images per step; scaled linearly with batch_size x ranks")
    min_lr: float = option(1e-6, "learning rate at the end")
    warmup_epochs: float = option(10.0, "epochs of linear warm-up")
    weight_decay: float = option(0.04, "weight decay at the start")
    weight_decay_end: float = option(0.4, "weight decay at the end")
    optimizer: str = option("adamw", "what takes the steps", choices=("adamw", "sgd", "lars"))
    local_crops: int = option(8, "local views per image, beside the two global ones")
    local_size: tuple[int, int] = option((128, 64), "height and width of the local views")
    global_scale: tuple[float, float] = option((0.4, 1.0), "area of the global views, as shares of the image")
    local_scale: tuple[float, float] = option((0.05, 0.4), "area of the local views, as shares of the image")
    crop_ratio: tuple[float, float] = option((0.0, 0.0), "width / height of all views (0,0: near that of img_size)")
    drop_path: float = option(-1.0, "stochastic depth of the student; the teacher has none (-1: as the network has it)")
    output_dim: int = option(65536, "width of the projection head's output")
    hidden_dim: int = option(2048, "width of the projection head's hidden layers")
    head_batchnorm: bool = option(False, "BatchNorm in the projection head; short runs collapse without it")
    norm_last_layer: bool = option(True, "rows of the head's last layer keep norm 1; otherwise their norms learn")
    teacher_momentum: float = option(0.996, "EMA momentum of the teacher at the start; it ends at 1")
    teacher_temp: float = option(0.04, "teacher temperature")
    teacher_temp_start: float = option(0.04, "teacher temperature in the first epoch, if it warms up")
    teacher_temp_epochs: int = option(0, "epochs in which the teacher temperature rises or falls to teacher_temp")
    student_temp: float = option(0.1, "student temperature")
    center_momentum: float = option(0.9, "momentum of the teacher logits' centre")
    clip_grad: float = option(3.0, "largest gradient norm of each tensor (0: no clipping)")
    freeze_last_layer: int = option(1, "epochs in which the head's last layer does not learn")
    start_from: str = option("", "checkpoint of the original CION or DINO code, whose training goes on here")
    probe: str = option("", "data set whose query and gallery the run is evaluated on (default: its own, if any)")
    collapse_steps: int = option(500, "steps with collapsed features after which the run stops (0: it only warns)")
    ranked_list: str = option("", "list of images, best first, to train on (.pkl, .json or .txt; see reidzoo cfs)")
    data_fraction: float = option(1.0, "how much of ranked_list to use, from its start")

    def _checks(self) -> Iterable[tuple[bool, str]]:
        yield from super()._checks()
        for name in ("global_scale", "local_scale"):
            low, high = getattr(self, name)
            yield not 0 < low <= high <= 1, f"{name} is {(low, high)}, expected 0 < low <= high <= 1"
        low, high = self.crop_ratio
        yield (
            not (0 < low <= high or low == high == 0),
            f"crop_ratio is {(low, high)}, expected 0 < low <= high, or 0,0",
        )
        for name in (
            "local_crops",
            "min_lr",
            "warmup_epochs",
            "weight_decay_end",
            "clip_grad",
            "freeze_last_layer",
            "collapse_steps",
        ):
            yield getattr(self, name) < 0, f"{name} is {getattr(self, name)}, expected at least 0"
        yield min(self.local_size) < 16, f"local_size is {self.local_size}, expected (height, width) of at least 16"
        for name in ("output_dim", "hidden_dim"):
            yield getattr(self, name) < 1, f"{name} is {getattr(self, name)}, expected at least 1"
        for name in ("teacher_momentum", "center_momentum"):
            yield not 0 <= getattr(self, name) <= 1, f"{name} is {getattr(self, name)}, expected 0 to 1"
        for name in ("teacher_temp", "teacher_temp_start", "student_temp"):
            yield getattr(self, name) <= 0, f"{name} is {getattr(self, name)}, expected more than 0"
        yield not (0 <= self.drop_path < 1 or self.drop_path == -1), f"drop_path is {self.drop_path}, expected 0 to 1"
        yield (
            bool(self.start_from) and self.shard_optimizer,
            "shard_optimizer and start_from, which brings the state of a whole optimiser: leave one of them out",
        )
        share = self.data_fraction
        yield not 0 < share <= 1, f"data_fraction is {share}, expected more than 0 and at most 1, such as 0.5"
        yield (
            0 < share < 1 and not self.ranked_list,
            f"data_fraction {share} is a part of ranked_list, which is not given (make one with: reidzoo cfs)",
        )


@dataclass(frozen=True, kw_only=True)
class CIONConfig(PretrainConfig):
    """CION pre-training (Zuo et al., NeurIPS 2024). Defaults are those of its ResNet50-IBN run on 8 GPUs."""

    batch_size: int = option(120, "images per rank and optimiser step; a multiple of every num_instances")
    num_instances: int | Schedule = option(
        ((0, 2), (40, 4), (60, 6), (80, 8)), "images per identity K: a number, or first_epoch:K pairs"
    )
    global_scale: tuple[float, float] = option((0.8, 1.0), "area of the global views, as shares of the image")
    local_scale: tuple[float, float] = option((0.05, 0.8), "area of the local views, as shares of the image")
    output_dim: int = option(65336, "width of the projection head's output")
    loss_variant: str = option(
        "release", "weights of the loss' terms: the released code's or the paper's", choices=("release", "paper")
    )
    schedule: str = option(
        "progress",
        "rates by the progress in epochs, or by the release's table of steps",
        choices=("progress", "release"),
    )
    remainder: str = option(
        "pad",
        "images that fill no group of K: draw others again, as many as are over, or none",
        choices=("pad", "reference", "drop"),
    )
    short_ids: str = option(
        "cycle",
        "identities with fewer than K images: all in turn, draws with replacement, or none of them",
        choices=("cycle", "replace", "drop"),
    )
    tail: str = option("drop", "the last identities, fewer than a batch takes", choices=("drop", "wrap"))
    rank_slices: bool = option(False, "each rank takes a consecutive part of an epoch, as in the release")
    teacher_drop_path: bool = option(False, "stochastic depth in the teacher too, as in the release")
    clip_scaled_grads: bool = option(False, "with fp16, clip gradients that carry the loss scale, as in the release")

    def _checks(self) -> Iterable[tuple[bool, str]]:
        yield from super()._checks()
        starts = [0] if isinstance(self.num_instances, int) else [first for first, _ in self.num_instances]
        yield (
            starts[:1] != [0] or starts != sorted(set(starts)),
            f"num_instances begins at epochs {starts}, expected 0 first, then increasing",
        )
        counts = self.instance_counts()
        unit = math.lcm(*(max(k, 1) for k in counts))
        for k in counts:
            yield k < 1, f"num_instances holds {k}, expected at least 1"
        for name in ("batch_size", "micro_batch"):
            size = getattr(self, name)
            uneven = [k for k in counts if k > 0 and size % k]
            yield (
                bool(uneven),
                f"{name} {size} is not a multiple of num_instances {', '.join(map(str, uneven))}: choose a multiple of "
                f"{unit}, such as {max(unit, round(size / unit) * unit)}",
            )

    def instance_counts(self) -> list[int]:
        """Every K of the schedule."""
        return [self.num_instances] if isinstance(self.num_instances, int) else [k for _, k in self.num_instances]


@dataclass(frozen=True, kw_only=True)
class DINOConfig(PretrainConfig):
    """DINO on images of persons, as TransReID-SSL trains it on LUPerson (Luo et al., 2021). No identities needed."""

    crop_ratio: tuple[float, float] = option((0.75, 1.3333), "width / height of all views (0,0: near that of img_size)")
    drop_path: float = option(0.1, "stochastic depth of the student; the teacher has none (-1: as the network has it)")

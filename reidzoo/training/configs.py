"""Settings of the training methods: one dataclass each, the source of Python keywords, CLI flags and their help."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from reidzoo.errors import ConfigError, did_you_mean
from reidzoo.training._field_types import wrong_types

Schedule = tuple[tuple[int, int], ...]
C = TypeVar("C", bound="TrainConfig")


def option(default: Any, help: str, *, choices: tuple[str, ...] | None = None) -> Any:
    """A dataclass field with its one-line help and, for words, the words that are allowed."""
    return field(default=default, metadata={"help": help, "choices": choices})


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What every training run has. Sizes are (height, width) in pixels; `batch_size` counts images per rank."""

    epochs: int = option(100, "passes over the training images")
    batch_size: int = option(64, "images per rank and optimiser step")
    micro_batch: int = option(0, "images per forward pass, to save memory (0: the whole batch)")
    img_size: tuple[int, int] = option((256, 128), "height and width of the network's input")
    lr: float = option(5e-4, "learning rate")
    weight_decay: float = option(1e-4, "weight decay")
    seed: int = option(0, "seed of initial weights, sampling and augmentation")
    num_workers: int = option(4, "loader processes per rank")
    device: str = option("auto", "where to compute", choices=("auto", "cpu", "cuda"))
    devices: int = option(1, "ranks to start on this machine (GPUs, or CPU processes)")
    precision: str = option(
        "auto", "number format of the forward pass (auto: bf16 on a GPU)", choices=("auto", "fp32", "bf16", "fp16")
    )
    grad_checkpointing: bool = option(False, "compute activations again in the backward pass instead of keeping them")
    compile: bool = option(False, "compile the network with torch.compile")
    shard_optimizer: bool = option(False, "each rank keeps only its share of the optimiser's state (ZeRO)")
    resume: str = option("auto", "go on from the run folder's last checkpoint", choices=("auto", "never"))
    overwrite: bool = option(False, "delete the run that is in the run folder and start anew")
    checkpoint_every_steps: int = option(0, "extra checkpoints between the ends of epochs (0: none)")
    eval_every: int = option(0, "epochs between evaluations (0: after the last one only)")
    skip_corrupt: bool = option(False, "leave unreadable images out instead of stopping before the run")

    def __post_init__(self) -> None:
        problems = list(wrong_types(self)) or [text for wrong, text in self._checks() if wrong]
        if problems:
            raise ConfigError(f"{type(self).__name__}: " + "; ".join(problems))

    def _checks(self) -> Iterable[tuple[bool, str]]:
        for f in fields(self):
            value, choices = getattr(self, f.name), f.metadata["choices"]
            if choices and value not in choices:
                yield True, f"{f.name} is {value!r}, expected one of {', '.join(choices)}"
        for name in ("epochs", "batch_size", "devices"):
            yield getattr(self, name) < 1, f"{name} is {getattr(self, name)}, expected at least 1"
        counts = ("seed", "micro_batch", "num_workers", "checkpoint_every_steps", "eval_every")
        for name in (*counts, "lr", "weight_decay"):
            yield getattr(self, name) < 0, f"{name} is {getattr(self, name)}, expected at least 0"
        yield min(self.img_size) < 16, f"img_size is {self.img_size}, expected (height, width) of at least 16"
        if self.micro_batch > 0:
            yield (
                self.batch_size % self.micro_batch > 0,
                f"batch_size {self.batch_size} is not a multiple of micro_batch {self.micro_batch}",
            )

    def to_json(self) -> str:
        """The settings as indented JSON."""
        return json.dumps(asdict(self), indent=2)


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


@dataclass(frozen=True, kw_only=True)
class TransReIDConfig(TrainConfig):
    """Supervised fine-tuning as CION does it: BNNeck, cross-entropy and soft-margin batch-hard triplet, SGD."""

    epochs: int = option(120, "passes over the training images")
    batch_size: int = option(64, "images per rank and optimiser step; a multiple of num_instances")
    num_instances: int = option(4, "images per identity in a batch (K of PK sampling)")
    lr: float = option(4e-4, "learning rate of the first cycle step; the recipes use 4e-4 for 64 images")
    weight_decay: float = option(1e-4, "weight decay of all parameters")
    bias_lr_factor: float = option(2.0, "learning rate of parameters whose name contains 'bias', relative to lr")
    warmup_epochs: int = option(20, "epochs of linear warm-up")
    momentum: float = option(0.9, "SGD momentum")
    label_smoothing: float = option(0.0, "label smoothing of the cross-entropy")
    id_weight: float = option(1.0, "weight of the cross-entropy")
    triplet_weight: float = option(1.0, "weight of the triplet loss")
    erasing: float = option(0.5, "probability of random erasing")
    padding: int = option(10, "black border in pixels before the random crop")
    mean: tuple[float, float, float] = option((0.5, 0.5, 0.5), "mean of the normalisation, RGB in [0, 1]")
    std: tuple[float, float, float] = option((0.5, 0.5, 0.5), "standard deviation of the normalisation")
    neck_feature: str = option("before", "retrieval feature: before or after the BNNeck", choices=("before", "after"))

    def _checks(self) -> Iterable[tuple[bool, str]]:
        yield from super()._checks()
        k = self.num_instances
        yield k < 2, f"num_instances is {k}, expected at least 2 (the triplet loss needs positives)"
        for name in ("batch_size", "micro_batch"):
            size = getattr(self, name)
            yield k > 0 and size % k > 0, f"{name} {size} is not a multiple of num_instances {k}"
        yield not 0 <= self.label_smoothing < 1, f"label_smoothing is {self.label_smoothing}, expected 0 to below 1"


def make_config(cls: type[C], config: C | Mapping[str, Any] | None, overrides: Mapping[str, Any]) -> C:
    """Build a `cls` from a config (or a mapping such as a parsed ``config.json``) and keyword overrides.

    Raises:
        ConfigError: a field that does not exist (with the closest names), or a value out of range.
    """
    known = {f.name: f for f in fields(cls)}
    if config is not None and not isinstance(config, (cls, Mapping)):
        raise ConfigError(f"config is a {type(config).__name__}; this method takes a {cls.__name__} or a mapping")
    base = {} if config is None else dict(config) if isinstance(config, Mapping) else asdict(config)
    values = {**base, **overrides}
    for name in values:
        if name not in known:
            raise ConfigError(f"{cls.__name__} has no field {name!r}.{did_you_mean(name, known)}")
    return cls(**{name: _plain(value) for name, value in values.items()})


def _plain(value: Any) -> Any:
    """What a field holds: JSON's lists back to tuples, paths as texts."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return tuple(_plain(v) for v in value) if isinstance(value, (list, tuple)) else value

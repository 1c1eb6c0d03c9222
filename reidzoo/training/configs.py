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

METRIC_LOSSES = (
    "triplet", "triplet_all", "triplet_mined", "contrastive", "circle", "lifted", "instance", "instance_id",
)  # fmt: skip
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
class FinetuneConfig(TrainConfig):
    """What the methods that learn from identity labels share."""

    num_instances: int = option(4, "images per identity in a batch (K of PK sampling; 1: images in random order)")
    optimizer: str = option("sgd", "what takes the steps", choices=("sgd", "nesterov", "adam", "adamw"))
    momentum: float = option(0.9, "momentum of sgd and nesterov")
    layer_decay: float = option(1.0, "learning rate of each layer of the backbone, relative to the next one's")
    freeze_epochs: int = option(0, "epochs in which the pre-trained part rests, and its BatchNorm takes no statistics")
    ema: float = option(0.0, "momentum of the moving average of the weights, which is then the result (0: none)")
    drop_path: float = option(-1.0, "stochastic depth of the backbone (-1: as the network has it)")
    label_smoothing: float = option(0.0, "label smoothing of the cross-entropy")
    erasing: float = option(0.5, "probability of random erasing")
    erasing_fill: str = option("noise", "what random erasing leaves behind", choices=("noise", "black", "mean"))
    padding: int = option(10, "black border in pixels before the random crop")
    mean: tuple[float, float, float] = option((0.485, 0.456, 0.406), "mean of the normalisation, RGB in [0, 1]")
    std: tuple[float, float, float] = option((0.229, 0.224, 0.225), "standard deviation of the normalisation")

    def _checks(self) -> Iterable[tuple[bool, str]]:
        yield from super()._checks()
        k = self.num_instances
        yield k < 1, f"num_instances is {k}, expected at least 1"
        for name in ("batch_size", "micro_batch"):
            size = getattr(self, name)
            yield k > 0 and size % k > 0, f"{name} {size} is not a multiple of num_instances {k}"
        for name in ("freeze_epochs", "padding"):
            yield getattr(self, name) < 0, f"{name} is {getattr(self, name)}, expected at least 0"
        for name in ("momentum", "label_smoothing", "ema"):
            yield not 0 <= getattr(self, name) < 1, f"{name} is {getattr(self, name)}, expected 0 to below 1"
        yield not (0 <= self.drop_path < 1 or self.drop_path == -1), f"drop_path is {self.drop_path}, expected 0 to 1"
        yield not 0 < self.layer_decay <= 1, f"layer_decay is {self.layer_decay}, expected more than 0 and at most 1"
        yield not 0 <= self.erasing <= 1, f"erasing is {self.erasing}, expected a probability, 0 to 1"
        yield min(self.std) <= 0, f"std is {self.std}, expected more than 0"


@dataclass(frozen=True, kw_only=True)
class TransReIDConfig(FinetuneConfig):
    """Supervised fine-tuning as CION does it: BNNeck, cross-entropy and soft-margin batch-hard triplet, SGD."""

    epochs: int = option(120, "passes over the training images")
    batch_size: int = option(64, "images per rank and optimiser step; a multiple of num_instances")
    lr: float = option(4e-4, "learning rate of the first cycle step; the recipes use 4e-4 for 64 images")
    weight_decay: float = option(1e-4, "weight decay of all parameters")
    bias_lr_factor: float = option(2.0, "learning rate of parameters whose name contains 'bias', relative to lr")
    warmup_epochs: int = option(20, "epochs of linear warm-up")
    id_weight: float = option(1.0, "weight of the cross-entropy")
    id_loss: str = option(
        "softmax",
        "cross-entropy of the logits, or of cosines with a margin",
        choices=("softmax", "arcface", "cosface", "amsoftmax", "circle"),
    )
    id_scale: float = option(30.0, "scale of the cosines, if id_loss has a margin")
    id_margin: float = option(0.5, "margin of the cosines, if id_loss has one")
    triplet_weight: float = option(1.0, "weight of the triplet loss")
    triplet_margin: float = option(0.0, "margin of the triplet loss (0: the soft margin)")
    pool: str = option(
        "backbone", "the feature: the backbone's own, or GeM of its last map", choices=("backbone", "gem")
    )
    last_stride_1: bool = option(False, "the last stage of a ResNet or DenseNet keeps its resolution (the zoo's do)")
    mean: tuple[float, float, float] = option((0.5, 0.5, 0.5), "mean of the normalisation, RGB in [0, 1]")
    std: tuple[float, float, float] = option((0.5, 0.5, 0.5), "standard deviation of the normalisation")
    neck_feature: str = option("before", "retrieval feature: before or after the BNNeck", choices=("before", "after"))
    jpm: bool = option(False, "jigsaw patches of a ViT: four local features beside the global one")
    sie: float = option(0.0, "weight of the vectors that a ViT learns for the cameras (TransReID: 3; 0: none)")
    stride: int = option(0, "pixels from one patch of a ViT to the next (TransReID: 12; 0: as the network has it)")

    def _checks(self) -> Iterable[tuple[bool, str]]:
        yield from super()._checks()
        yield _needs_positives(self.num_instances, self.triplet_weight)
        for name in ("sie", "stride"):
            yield getattr(self, name) < 0, f"{name} is {getattr(self, name)}, expected at least 0"
        yield self.jpm and self.pool != "backbone", "jpm has features of its own: leave pool out"
        for name in ("bias_lr_factor", "warmup_epochs", "id_weight", "triplet_weight", "triplet_margin", "id_margin"):
            yield getattr(self, name) < 0, f"{name} is {getattr(self, name)}, expected at least 0"
        yield self.id_scale <= 0, f"id_scale is {self.id_scale}, expected more than 0"


@dataclass(frozen=True, kw_only=True)
class BoTConfig(TransReIDConfig):
    """Bag of tricks (Luo et al., 2019): label smoothing, centre loss, last stride 1, Adam with warm-up and steps."""

    lr: float = option(3.5e-4, "learning rate after the warm-up")
    weight_decay: float = option(5e-4, "weight decay of all parameters")
    optimizer: str = option("adam", "what takes the steps", choices=("sgd", "nesterov", "adam", "adamw"))
    bias_lr_factor: float = option(1.0, "learning rate of parameters whose name contains 'bias', relative to lr")
    warmup_epochs: int = option(10, "epochs of linear warm-up")
    milestones: tuple[float, float] = option((40.0, 70.0), "epochs after which the learning rate is a tenth")
    label_smoothing: float = option(0.1, "label smoothing of the cross-entropy")
    triplet_margin: float = option(0.3, "margin of the triplet loss (0: the soft margin)")
    center_weight: float = option(5e-4, "weight of the centre loss")
    last_stride_1: bool = option(True, "the last stage of a ResNet or DenseNet keeps its resolution (the zoo's do)")
    mean: tuple[float, float, float] = option((0.485, 0.456, 0.406), "mean of the normalisation, RGB in [0, 1]")
    std: tuple[float, float, float] = option((0.229, 0.224, 0.225), "standard deviation of the normalisation")
    neck_feature: str = option("after", "retrieval feature: before or after the BNNeck", choices=("before", "after"))

    def _checks(self) -> Iterable[tuple[bool, str]]:
        yield from super()._checks()
        yield self.center_weight < 0, f"center_weight is {self.center_weight}, expected at least 0"
        first, second = self.milestones
        yield not 0 <= first <= second, f"milestones is {self.milestones}, expected 0 <= first <= second"


@dataclass(frozen=True, kw_only=True)
class BaselineConfig(FinetuneConfig):
    """The baseline of Zheng et al. (Person_reID_baseline_pytorch): a 512-d bottleneck, SGD, images in random order."""

    epochs: int = option(60, "passes over the training images")
    batch_size: int = option(32, "images per rank and optimiser step")
    num_instances: int = option(1, "images per identity in a batch (K of PK sampling; 1: images in random order)")
    lr: float = option(0.05, "learning rate of the head")
    trunk_lr_factor: float = option(0.1, "learning rate of the backbone, relative to lr")
    weight_decay: float = option(5e-4, "weight decay of all parameters")
    optimizer: str = option("nesterov", "what takes the steps", choices=("sgd", "nesterov", "adam", "adamw"))
    schedule: str = option(
        "step", "a tenth after two thirds of the run, or a cosine to a hundredth of lr", choices=("step", "cosine")
    )
    warmup_epochs: float = option(0.0, "epochs in which the loss is multiplied with 0.1 to 1")
    bottleneck: int = option(512, "width of the embedding (0: that of the backbone)")
    dropout: float = option(0.5, "share of the embedding that is dropped")
    losses: str = option("", "metric losses beside the cross-entropy, with commas: circle,triplet_mined")
    last_stride_1: bool = option(False, "the last stage of a ResNet or DenseNet keeps its resolution (the zoo's do)")
    adversarial: float = option(0.0, "weight of images that were changed until their features turned around")
    adversarial_every: int = option(1, "steps between batches of such images")
    unlabelled: str = option("", "data set of which two views are to be classified alike in the last fifth of the run")
    unlabelled_weight: float = option(0.1, "weight of the difference between the views of unlabelled images")
    color_jitter: bool = option(False, "vary brightness, contrast and saturation by a tenth")
    erasing: float = option(0.0, "probability of random erasing")
    erasing_fill: str = option("mean", "what random erasing leaves behind", choices=("noise", "black", "mean"))

    def _checks(self) -> Iterable[tuple[bool, str]]:
        yield from super()._checks()
        for name in ("trunk_lr_factor", "warmup_epochs", "bottleneck", "adversarial", "unlabelled_weight"):
            yield getattr(self, name) < 0, f"{name} is {getattr(self, name)}, expected at least 0"
        yield (
            bool(self.unlabelled) and not self.ema,
            "unlabelled images are compared with what the moving average says of them: set ema, such as 0.996",
        )
        yield bool(self.unlabelled) and self.micro_batch > 0, "unlabelled and micro_batch: leave one of them out"
        yield self.adversarial_every < 1, f"adversarial_every is {self.adversarial_every}, expected at least 1"
        yield not 0 <= self.dropout < 1, f"dropout is {self.dropout}, expected 0 to below 1"
        for name in self.metric_losses():
            hint = did_you_mean(name, METRIC_LOSSES)
            yield name not in METRIC_LOSSES, f"losses has {name!r}, expected some of {', '.join(METRIC_LOSSES)}.{hint}"

    def metric_losses(self) -> list[str]:
        """The names in `losses`."""
        return [name.strip() for name in self.losses.split(",") if name.strip()]


@dataclass(frozen=True, kw_only=True)
class PCBConfig(BaselineConfig):
    """PCB (Sun et al., ECCV 2018) in the setting of the baseline: six parts of larger images, without cropping."""

    img_size: tuple[int, int] = option((384, 192), "height and width of the network's input")
    parts: int = option(6, "horizontal parts")
    bottleneck: int = option(256, "width of each part's bottleneck, which the embedding is not made of")
    dropout: float = option(0.5, "share of the pooled parts, and of their bottlenecks, that is dropped")
    last_stride_1: bool = option(True, "of a ResNet; there is no PCB without it")
    padding: int = option(0, "black border in pixels before the random crop")

    def _checks(self) -> Iterable[tuple[bool, str]]:
        yield from super()._checks()
        yield self.parts < 1, f"parts is {self.parts}, expected at least 1"


@dataclass(frozen=True, kw_only=True)
class MGNConfig(FinetuneConfig):
    """MGN as CION's published numbers were measured with it: eight cosine classifiers, five triplet losses, Adam."""

    epochs: int = option(60, "passes over the training images")
    batch_size: int = option(64, "images per rank and optimiser step; the release trains with 64 in all, on 4 GPUs")
    img_size: tuple[int, int] = option((384, 128), "height and width of the network's input")
    num_instances: int = option(16, "images per identity in a batch (K of PK sampling)")
    lr: float = option(3.5e-4, "learning rate")
    min_lr: float = option(7.7e-7, "learning rate at the end")
    weight_decay: float = option(5e-4, "weight decay of all parameters")
    optimizer: str = option("adam", "what takes the steps", choices=("sgd", "nesterov", "adam", "adamw"))
    warmup_epochs: float = option(10.0, "epochs of linear warm-up")
    hold_epochs: float = option(30.0, "epoch in which the learning rate begins to fall, as a cosine")
    freeze_epochs: int = option(10, "epochs in which trunk and branches rest, and their BatchNorm takes no statistics")
    precision: str = option(
        "fp32", "number format of the forward pass (auto: bf16 on a GPU)", choices=("auto", "fp32", "bf16", "fp16")
    )
    label_smoothing: float = option(0.1, "label smoothing of the cross-entropy, in fast-reid's convention")
    erasing_fill: str = option("black", "what random erasing leaves behind", choices=("noise", "black", "mean"))
    circle_scale: float = option(64.0, "scale of the circle loss on the cosines")
    circle_margin: float = option(0.35, "margin of the circle loss on the cosines")
    id_weight: float = option(0.125, "weight of each of the eight cross-entropies")
    triplet_weight: float = option(0.2, "weight of each of the five triplet losses")

    def _checks(self) -> Iterable[tuple[bool, str]]:
        yield from super()._checks()
        yield _needs_positives(self.num_instances, self.triplet_weight)
        for name in ("min_lr", "warmup_epochs", "hold_epochs"):
            yield getattr(self, name) < 0, f"{name} is {getattr(self, name)}, expected at least 0"
        yield (
            self.hold_epochs < self.warmup_epochs,
            f"hold_epochs {self.hold_epochs} ends before warmup_epochs {self.warmup_epochs} does",
        )
        yield (
            self.layer_decay != 1,
            f"layer_decay is {self.layer_decay}, but timm's list of layers has no copies of them",
        )


def _needs_positives(k: int, weight: float) -> tuple[bool, str]:
    return k < 2 and weight > 0, f"num_instances is {k}, expected at least 2 (the triplet loss needs positives)"


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

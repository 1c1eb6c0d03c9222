"""Settings of the fine-tuning methods."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from reidzoo.errors import did_you_mean
from reidzoo.training.configs._base import TrainConfig, option

METRIC_LOSSES = (
    "triplet", "triplet_all", "triplet_mined", "contrastive", "circle", "lifted", "instance", "instance_id", "arcface",
    "cosface", "sphereface",
)  # fmt: skip


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
            yield (
                k > 0 and size % k > 0,
                f"{name} {size} is not a multiple of num_instances {k}: choose a multiple of {k}, such as "
                f"{max(1, round(size / max(k, 1))) * k}",
            )
            yield size == 1, f"{name} is 1, expected at least 2: the batch norm of the head compares images"
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
    lr_ahead: int = option(0, "epochs that the learning rate is ahead of the run (TransReID: 1)")
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
    feat_dim: int = option(0, "width of the embedding, a linear layer behind the feature (0: that of the backbone)")
    last_stride: int = option(0, "stride of the last stage of a ResNet or DenseNet (0: as it is; the zoo's: 1)")
    mean: tuple[float, float, float] = option((0.5, 0.5, 0.5), "mean of the normalisation, RGB in [0, 1]")
    std: tuple[float, float, float] = option((0.5, 0.5, 0.5), "standard deviation of the normalisation")
    neck_feature: str = option("before", "retrieval feature: before or after the BNNeck", choices=("before", "after"))
    jpm: bool = option(False, "jigsaw patches of a ViT: four local features beside the global one")
    multi_neck: bool = option(False, "a BNNeck for each of the class and part tokens of a PASS ViT, not one for all")
    sie: float = option(0.0, "weight of the vectors that a ViT learns for the cameras (TransReID: 3; 0: none)")
    stride: int = option(0, "pixels from one patch of a ViT to the next (TransReID: 12; 0: as the network has it)")

    def _checks(self) -> Iterable[tuple[bool, str]]:
        yield from super()._checks()
        yield _needs_positives(self.num_instances, self.triplet_weight)
        for name in ("sie", "stride", "feat_dim"):
            yield getattr(self, name) < 0, f"{name} is {getattr(self, name)}, expected at least 0"
        for name in ("jpm", "multi_neck"):
            for other in ("pool", "feat_dim"):
                own = getattr(self, name) and getattr(self, other) not in ("backbone", 0)
                yield own, f"{name} has features of its own: leave {other} out"
        yield self.jpm and self.multi_neck, "jpm and multi_neck are of different ViTs: leave one of them out"
        for name in (
            *("bias_lr_factor", "warmup_epochs", "lr_ahead"),
            *("id_weight", "id_margin", "triplet_weight", "triplet_margin"),
        ):
            yield getattr(self, name) < 0, f"{name} is {getattr(self, name)}, expected at least 0"
        yield _no_stride(self.last_stride)
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
    erasing_fill: str = option("mean", "what random erasing leaves behind", choices=("noise", "black", "mean"))
    center_weight: float = option(5e-4, "weight of the centre loss")
    non_local: bool = option(False, "non-local blocks behind the last blocks of a ResNet's layer2 and layer3 (AGW)")
    last_stride: int = option(1, "stride of the last stage of a ResNet or DenseNet (0: as it is; the zoo's: 1)")
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
    instance_scale: float = option(32.0, "scale of the cosines in the losses instance and instance_id")
    proxies: str = option(
        "learned",
        "directions of the identities in the losses arcface, cosface and sphereface (frozen: as they were drawn)",
        choices=("learned", "frozen"),
    )
    pool: str = option(
        "backbone",
        "the feature: the backbone's own, or the mean of its last map or of all its tokens, without a last layer",
        choices=("backbone", "average"),
    )
    usam: bool = option(False, "two modules of spatial attention (USAM) in a ResNet")
    last_stride: int = option(0, "stride of the last stage of a ResNet or DenseNet (0: as it is; the zoo's: 1)")
    adversarial: float = option(0.0, "weight of images that were changed until their features turned around")
    adversarial_every: int = option(1, "steps between batches of such images")
    unlabelled: str = option("", "data set of which two views are to be classified alike at the end of the run")
    unlabelled_weight: float = option(0.1, "weight of the difference between the views of unlabelled images")
    color_jitter: bool = option(False, "vary brightness, contrast and saturation by a tenth")
    erasing: float = option(0.0, "probability of random erasing")
    erasing_fill: str = option("mean", "what random erasing leaves behind", choices=("noise", "black", "mean"))

    def _checks(self) -> Iterable[tuple[bool, str]]:
        yield from super()._checks()
        for name in ("trunk_lr_factor", "warmup_epochs", "bottleneck", "adversarial", "unlabelled_weight"):
            yield getattr(self, name) < 0, f"{name} is {getattr(self, name)}, expected at least 0"
        yield (
            bool(self.unlabelled) and self.epochs < 6,
            f"epochs is {self.epochs}, but unlabelled images come in when the last fifth has begun: at least 6",
        )
        yield self.instance_scale <= 0, f"instance_scale is {self.instance_scale}, expected more than 0"
        yield bool(self.unlabelled) and self.micro_batch > 0, "unlabelled and micro_batch: leave one of them out"
        yield _no_stride(self.last_stride)
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
    last_stride: int = option(1, "of a ResNet or DenseNet; there is no PCB without it")
    padding: int = option(0, "black border in pixels before the random crop")
    compat: str = option(
        "none", "layumi: probabilities of unlabelled images go through a second softmax", choices=("none", "layumi")
    )

    def _checks(self) -> Iterable[tuple[bool, str]]:
        yield from super()._checks()
        yield self.parts < 1, f"parts is {self.parts}, expected at least 1"
        yield self.last_stride != 1, f"last_stride is {self.last_stride}, but the parts of PCB need the rows of 1"
        yield self.pool != "backbone", f"pool is {self.pool!r}, but PCB pools its parts: leave it out"


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


def _no_stride(stride: int) -> tuple[bool, str]:
    return stride not in (0, 1, 2), f"last_stride is {stride}, expected 1, 2, or 0 to leave it as it is"

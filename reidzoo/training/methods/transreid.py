"""Fine-tuning in the setting of TransReID (He et al., ICCV 2021) that CION's published numbers use.

BNNeck (Luo et al., "Bag of Tricks", 2019): the triplet loss sees the feature before the neck, the classifier the one
after it. PK batches, SGD, a cosine over epochs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn

from reidzoo.data import Records
from reidzoo.data.records import NO_CAMERA
from reidzoo.errors import ConfigError
from reidzoo.models.heads import JPM, BNNeck, Head, HeadOutput, MultiNeck
from reidzoo.models.vit import ReIDVisionTransformer, set_options, takes_options
from reidzoo.training._engine import Progress
from reidzoo.training.configs import TransReIDConfig
from reidzoo.training.losses import MARGIN, batch_hard_triplet, cross_entropy
from reidzoo.training.methods.supervised import Supervised
from reidzoo.training.schedules import transreid_lr


class TransReID(Supervised):
    """The method, as its release trains: see the module's first lines."""

    name = "transreid"
    config: TransReIDConfig

    def make_network(self, backbone: nn.Module, train: Records) -> nn.Module:
        """Make a ViT what `stride`, `sie` and `img_size` say, then put the head on it."""
        c = self.config
        cameras = np.unique(train.camid[train.camid != NO_CAMERA]).tolist()
        if c.sie and not cameras:
            raise ConfigError(
                f"sie is {c.sie:g}, but of none of the {len(train)} training images the camera is known, for which a "
                "vector would be learned. Leave sie out, or say the cameras (in a folder's file names: _c1; in a csv: "
                "camid)."
            )
        vit: Any = backbone
        moves = takes_options(vit) and tuple(vit.patch_embed.img_size) != tuple(c.img_size)
        if c.jpm or c.stride or c.sie or moves or isinstance(vit, ReIDVisionTransformer):
            options = {"cameras": cameras, "sie_weight": c.sie} if c.sie else {}
            set_options(backbone, stride=c.stride or None, pos_size=c.img_size, **options)
        return super().make_network(backbone, train)

    def make_head(self, width: int, train: Records) -> Head:
        """Return a BNNeck, TransReID's five of them, or PASS' four."""
        c = self.config
        neck: dict[str, Any] = {"neck_feature": c.neck_feature, "cosine": c.id_loss != "softmax"}
        if c.jpm or c.multi_neck:
            return (JPM if c.jpm else MultiNeck)(width, train.num_pids, **neck)
        return BNNeck(
            width,
            train.num_pids,
            **neck,
            pool=c.pool,
            width=c.feat_dim,
            last_stride=c.last_stride,
        )

    def frozen(self) -> list[nn.Module]:
        """Return the backbone, and what the jigsaw branches have copied of it."""
        return [*super().frozen(), self.network.head.b2] if self.config.jpm else super().frozen()  # type: ignore[union-attr, list-item]

    def factor(self, name: str) -> float:
        """Return the bias factor for names that contain ``bias``.

        The rule goes by the substring, so it covers Swin's ``relative_position_bias_table`` too, as in the published
        runs.
        """
        return self.config.bias_lr_factor if "bias" in name else 1.0

    def rate(self, progress: Progress, peak: float) -> float:
        """Return the rate of this epoch; biases learn faster."""
        c = self.config
        t = progress.epoch + c.lr_ahead
        return transreid_lr(t, epochs=c.epochs, warmup=c.warmup_epochs, base=c.lr, group=peak)

    def terms(self, output: HeadOutput, pids: Tensor, progress: Progress) -> dict[str, tuple[float, Tensor]]:
        """Add cross-entropy on the logits and batch-hard triplet on the feature before the neck."""
        c = self.config
        ids = [cross_entropy(self.harder(logits, pids), pids, c.label_smoothing) for logits in output.logits]
        terms = {"id_loss": (c.id_weight, _weighed(ids))}
        if c.triplet_weight:
            triplets = [
                batch_hard_triplet(feature, pids, margin=c.triplet_margin or None) for feature in output.features
            ]
            terms["triplet"] = (c.triplet_weight, _weighed(triplets))
        return terms

    def harder(self, logits: Tensor, pids: Tensor) -> Tensor:
        """Return the logits, or what the margin makes of cosines."""
        c = self.config
        if c.id_loss == "softmax":
            return logits
        return MARGIN[c.id_loss](logits, pids, scale=c.id_scale, margin=c.id_margin)


def _weighed(values: list[Tensor]) -> Tensor:
    """The global feature's loss counts as much as all local ones together (TransReID, equation 4)."""
    return values[0] if len(values) == 1 else 0.5 * values[0] + 0.5 * sum(values[1:]) / (len(values) - 1)

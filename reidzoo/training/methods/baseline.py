"""The baseline of Zheng et al. (Person_reID_baseline_pytorch): a narrow bottleneck that is classified.

SGD with Nesterov momentum, the new layers ten times as fast as the pre-trained ones, images in random order; metric
losses by name on the normalised bottleneck. In the first epochs not the rate is warmed up but the loss.
"""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reidzoo.data import Records, ReIDDataset, load_dataset
from reidzoo.data.combine import concatenate
from reidzoo.data.records import JUNK
from reidzoo.data.transforms import TrainTransform
from reidzoo.models.heads import Bottleneck, Head, HeadOutput
from reidzoo.training._distributed import World
from reidzoo.training._engine import Progress
from reidzoo.training._opposite import turn_around
from reidzoo.training.configs import BaselineConfig
from reidzoo.training.losses import PAIRWISE, cross_entropy
from reidzoo.training.methods._unlabelled import FIRST, PairSampler, disagreement, said_by
from reidzoo.training.methods.supervised import Supervised

# The losses that the release divides by the number of images, though they are means, or one number for the batch.
_DIVIDED = ("circle", "instance", "instance_id")


class Baseline(Supervised):
    """The method: see the module's first lines."""

    name = "baseline"
    interpolation = "bicubic"
    config: BaselineConfig

    def __init__(self, backbone: nn.Module, data: ReIDDataset, config: BaselineConfig, world: World) -> None:
        super().__init__(backbone, data, config, world)
        self.pairs: PairSampler | None = None
        if config.unlabelled:
            labelled, extra = self.dataset.records, load_dataset(config.unlabelled).train
            nobody = Records(extra.path, np.full(len(extra), JUNK), extra.camid)
            self.dataset.records = concatenate([labelled, nobody])
            self.pairs = PairSampler(
                len(extra),
                len(labelled),
                pairs=max(8, config.batch_size // 2),
                world_size=world.size,
                rank=world.rank,
                seed=config.seed,
            )

    def make_head(self, width: int, train: Records) -> Head:
        """Return a bottleneck."""
        c = self.config
        return Bottleneck(width, train.num_pids, width=c.bottleneck, dropout=c.dropout, last_stride_1=c.last_stride_1)

    def make_transform(self) -> TrainTransform:
        """Return the augmentation."""
        c = self.config
        return TrainTransform(
            c.img_size,
            mean=c.mean,
            std=c.std,
            padding=c.padding,
            erasing=c.erasing,
            erasing_fill=c.erasing_fill,
            jitter=0.1 if c.color_jitter else 0.0,
        )

    def plan(self, epoch: int) -> np.ndarray:
        """Return the sampler's batches; in the last fifth of the run two views of unlabelled images behind each."""
        plan = super().plan(epoch)
        late = self.pairs is not None and epoch >= FIRST * self.config.epochs
        return self.pairs.beside(plan, epoch) if late and self.pairs is not None else plan

    def factor(self, name: str) -> float:
        """Return the trunk's factor for what was there before the head."""
        return self.config.trunk_lr_factor if name.startswith("backbone.") else 1.0

    def rate(self, progress: Progress, peak: float) -> float:
        """Return a tenth after every two thirds of the run, or a cosine down to a hundredth of the head's rate."""
        c = self.config
        if c.schedule == "step":
            return peak * 0.1 ** (progress.epoch // max(c.epochs * 2 // 3, 1))
        floor = 0.01 * c.lr
        return floor + 0.5 * (peak - floor) * (1 + math.cos(math.pi * progress.epoch / c.epochs))

    def terms(self, output: HeadOutput, pids: Tensor, progress: Progress) -> dict[str, tuple[float, Tensor]]:
        """Add the cross-entropies of all classifiers, and each metric loss as a mean over the features."""
        c, images = self.config, len(pids) * self.world.size
        warm = loss_warmup(progress.t, c.warmup_epochs)
        ids = [cross_entropy(logits, pids, c.label_smoothing) for logits in output.logits]
        terms = {"id_loss": (warm, sum(ids, start=ids[0].new_zeros(())))}
        for name in c.metric_losses():
            values = [PAIRWISE[name](F.normalize(x.float(), dim=1), pids) for x in output.features]
            mean = sum(values, start=values[0].new_zeros(())) / len(values)
            terms[name] = (warm / images if name in _DIVIDED else warm, mean)
        return terms

    def loss(self, network: nn.Module, views: list[Tensor], pids: Tensor, progress: Progress) -> dict[str, Tensor]:
        """Add, if asked for, what changed images and unlabelled ones cost.

        ``adversarial`` is the cross-entropy of images that were changed until their features turned around,
        ``unlabelled`` the disagreement with the moving average.
        """
        c, images = self.config, views[0]
        count = c.micro_batch or c.batch_size
        (labelled, others), pids = (images[:count], images[count:]), pids[:count]
        values = super().loss(network, [labelled], pids, progress)
        if len(others):
            first, second = others.chunk(2)
            values["unlabelled"] = disagreement(network(first).logits, said_by(self.average, second))
            values["loss"] = values["loss"] + c.unlabelled_weight * values["unlabelled"]
        if c.adversarial:
            values["adversarial"] = torch.zeros_like(values["loss"])
            if progress.step % c.adversarial_every == 0:
                still = copy.deepcopy(self.network).eval().requires_grad_(False)
                output = network(turn_around(still, labelled, mean=c.mean, std=c.std))
                for logits in output.logits:
                    values["adversarial"] = values["adversarial"] + cross_entropy(logits, pids)
            values["loss"] = values["loss"] + c.adversarial * values["adversarial"]
        return values


def loss_warmup(t: float, epochs: float) -> float:
    """Return what the loss is multiplied with at progress `t`: 0.1 at the start, 1 from `epochs` on, linear between."""
    return min(1.0, 0.1 + 0.9 * t / epochs) if epochs else 1.0

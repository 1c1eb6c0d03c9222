"""MGN (Wang et al., ACM MM 2018) as fast-reid trains it, and CION's published numbers with 384x128 images with it.

Each of eight parts of the image has its own feature and its own classifier, whose cosines go through the circle loss;
five triplet losses see the whole maps and the stripes. Batches hold few people with many images each. At first only
the head learns, on features of the pre-trained network, then all of it.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from reidzoo.data import Records
from reidzoo.data.samplers import PKSampler
from reidzoo.models import heads
from reidzoo.models.heads import Head, HeadOutput, ReIDModel
from reidzoo.training._engine import Progress
from reidzoo.training.configs import MGNConfig
from reidzoo.training.losses import batch_hard_triplet, circle_softmax, cross_entropy
from reidzoo.training.methods.supervised import Supervised
from reidzoo.training.schedules import warmup_hold_cosine


class MGN(Supervised):
    """The method: see the module's first lines."""

    name = "mgn"
    interpolation = "bicubic"
    config: MGNConfig

    def make_head(self, width: int, train: Records) -> Head:
        """Return the three branches and eight parts."""
        return heads.MGN(width, train.num_pids)

    def make_sampler(self, train: Records) -> EndlessPKSampler:
        """Plan batches of few identities, whose images are dealt out to the ranks."""
        c, world = self.config, self.world
        return EndlessPKSampler(
            train.pid,
            batch_size=c.batch_size,
            num_instances=c.num_instances,
            world_size=world.size,
            rank=world.rank,
            seed=c.seed,
        )

    def frozen(self) -> list[nn.Module]:
        """Return the trunk and the branches; the norms behind them and the parts learn from the start."""
        model = cast(ReIDModel, self.network)
        return [model.backbone, cast(heads.MGN, model.head).branches]

    def rate(self, progress: Progress, peak: float) -> float:
        """Return the rate of this step: warm-up, hold, cosine."""
        c = self.config
        return warmup_hold_cosine(
            progress.t, epochs=c.epochs, base=peak, final=c.min_lr, warmup=c.warmup_epochs, hold=c.hold_epochs
        )

    def terms(self, output: HeadOutput, pids: Tensor, progress: Progress) -> dict[str, tuple[float, Tensor]]:
        """Add eight cross-entropies on circle logits and five triplet losses with a soft margin; the log has means."""
        c = self.config
        ids = [
            cross_entropy(
                circle_softmax(cosines, pids, scale=c.circle_scale, margin=c.circle_margin),
                pids,
                c.label_smoothing,
                "fastreid",
            )
            for cosines in output.logits
        ]
        triplets = [batch_hard_triplet(feature, pids) for feature in output.features]
        weighed = {"id_loss": (c.id_weight, ids), "triplet": (c.triplet_weight, triplets)}
        return {name: (w * len(values), torch.stack(values).mean()) for name, (w, values) in weighed.items()}


class EndlessPKSampler(PKSampler):
    """PK sampling as in fast-reid: one pass follows the other, and an epoch is as many steps as would show all images.

    A pass of `PKSampler` has more or fewer steps than that, since identities with few images give K all the same and
    what fills no K is left out. Ranks take turns at the images of a batch, so that each has some of every identity.
    """

    def epoch(self, epoch: int) -> np.ndarray:
        """Return the plan of this rank, as of `EpochSampler.epoch`."""
        return self._global_plan(epoch)[:, self.rank :: self.world_size]

    def draw_epoch(self, epoch: int) -> np.ndarray:
        """Draw the steps of `epoch`, which may begin and end within a pass."""
        steps = max(len(self._images) // (self.batch_size * self.world_size), 1)
        first, last, at = epoch * steps, (epoch + 1) * steps, 0
        parts: list[np.ndarray] = []
        number = 0
        while at < last:
            batches = super().draw_epoch(number)
            parts.append(batches[max(first - at, 0) : max(last - at, 0)])
            at, number = at + len(batches), number + 1
        return np.concatenate(parts)

"""The baseline of Zheng et al. (Person_reID_baseline_pytorch): a narrow bottleneck that is classified.

SGD with Nesterov momentum, the new layers ten times as fast as the pre-trained ones, images in random order; metric
losses by name on the normalised bottleneck. In the first epochs not the rate is warmed up but the loss.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reidzoo.data import Records, ReIDDataset
from reidzoo.data.combine import concatenate
from reidzoo.data.records import JUNK
from reidzoo.data.transforms import TrainTransform
from reidzoo.models.attention import add_usam
from reidzoo.models.heads import Bottleneck, Head, HeadOutput
from reidzoo.models.heads.bottleneck import ClassBlock
from reidzoo.training._distributed import World, share_buffers
from reidzoo.training._engine import Progress
from reidzoo.training._opposite import turn_around
from reidzoo.training.configs import BaselineConfig
from reidzoo.training.losses import PAIRWISE, PROXIES, ProxyLoss, cross_entropy
from reidzoo.training.methods._unlabelled import MOMENTUM, PairSampler, disagreement, first_epoch, opinion, said_by
from reidzoo.training.methods.supervised import Supervised, follow

# The losses that the release divides by the number of images, though they are means, or one number for the batch.
_DIVIDED = ("circle", "instance", "instance_id", *PROXIES)


class Baseline(Supervised):
    """The method: see the module's first lines.

    Attributes:
        proxies: by the name of a loss that has some, a `ProxyLoss` for each `ClassBlock` of the head.
        teacher: what says how unlabelled images are to be classified, None without them.

    Args:
        unlabelled: the images of ``config.unlabelled``.
    """

    name = "baseline"
    interpolation = "bicubic"
    config: BaselineConfig

    def __init__(
        self,
        backbone: nn.Module,
        data: ReIDDataset,
        config: BaselineConfig,
        world: World,
        unlabelled: Records | None = None,
    ) -> None:
        super().__init__(backbone, data, config, world)
        self.teacher: nn.Module | None = None
        if unlabelled is not None:
            self.teacher = copy.deepcopy(self.network).eval().requires_grad_(False)
            labelled = self.dataset.records
            nobody = Records(unlabelled.path, np.full(len(unlabelled), JUNK), unlabelled.camid)
            self.dataset.records = concatenate([labelled, nobody])
            self.pairs = PairSampler(
                len(unlabelled),
                len(labelled),
                pairs=max(8, config.batch_size // 2),
                world_size=world.size,
                rank=world.rank,
                seed=config.seed,
            )

    def make_network(self, backbone: nn.Module, train: Records) -> nn.Module:
        """Put attention into the backbone, if asked for, and the head on it; the proxies stay beside them."""
        c = self.config
        if c.usam:
            add_usam(backbone)
        network = super().make_network(backbone, train)
        widths = [block.width for block in network.modules() if isinstance(block, ClassBlock)]
        self.proxies = nn.ModuleDict()
        for name in c.metric_losses():
            if name in PROXIES:
                losses = (ProxyLoss(name, train.num_pids, width, learned=c.proxies == "learned") for width in widths)
                self.proxies[name] = nn.ModuleList(losses)
        self.proxies.to(self.world.device)
        return network

    def make_head(self, width: int, train: Records) -> Head:
        """Return a bottleneck."""
        c = self.config
        return Bottleneck(
            width, train.num_pids, width=c.bottleneck, dropout=c.dropout, pool=c.pool, last_stride=c.last_stride
        )

    def make_optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """Return that of the network, with the proxies as a group of their own if they learn."""
        optimizer = super().make_optimizer(network)
        if learned := [p for p in self.proxies.parameters() if p.requires_grad]:
            optimizer.add_param_group({"params": learned, "base_lr": self.config.lr})
        return optimizer

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
        """Return the sampler's batches; once the teacher has learned, two views of unlabelled images behind each."""
        plan = super().plan(epoch)
        late = self.teacher is not None and epoch > first_epoch(self.config.epochs)
        return self.pairs.beside(plan, epoch) if late else plan

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
            value = torch.stack(self.compare(name, output.features, pids)).mean()
            terms[name] = (warm / images if name in _DIVIDED else warm, value)
        return terms

    def compare(self, name: str, features: list[Tensor], pids: Tensor) -> list[Tensor]:
        """Return a metric loss of each feature, on the sphere."""
        if name in PROXIES:
            losses: Any = self.proxies[name]
            return [loss(x, pids) for loss, x in zip(losses, features, strict=True)]
        scale = {"scale": self.config.instance_scale} if name.startswith("instance") else {}
        return [PAIRWISE[name](F.normalize(x.float(), dim=1), pids, **scale) for x in features]

    def loss(self, network: nn.Module, views: list[Tensor], pids: Tensor, progress: Progress) -> dict[str, Tensor]:
        """Add, if asked for, what changed images and unlabelled ones cost.

        ``adversarial`` is the cross-entropy of images that were changed until their features turned around,
        ``unlabelled`` the disagreement with the teacher.
        """
        c, images = self.config, views[0]
        count = c.micro_batch or c.batch_size
        (labelled, others), pids = (images[:count], images[count:]), pids[:count]
        values = super().loss(network, [labelled], pids, progress)
        if len(others):
            first, second = others.chunk(2)
            ours, theirs = self.opinion(network(first).logits), self.opinion(said_by(self.teacher, second))
            values["unlabelled"] = disagreement(ours, theirs)
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

    def opinion(self, logits: list[Tensor]) -> Tensor:
        """Return the probabilities (U, C) that the classifiers together give unlabelled images."""
        return opinion(logits)

    def after_step(self, progress: Progress) -> None:
        """Let the teacher follow at the ends of the last epochs; it begins as a copy."""
        super().after_step(progress)
        first, end = first_epoch(self.config.epochs), progress.iteration == progress.iterations - 1
        if self.teacher is not None and end and progress.epoch >= first:
            follow(self.teacher, self.network, MOMENTUM if progress.epoch > first else 0.0)
            share_buffers(self.teacher)  # each rank has its own statistics, and a checkpoint those of one

    def state_dict(self) -> dict[str, Any]:
        """Return the network's tensors and, where there are some, those of the proxies and of the teacher."""
        beside = self._beside()
        if not beside:
            return super().state_dict()
        return {"supervised": super().state_dict(), **{name: m.state_dict() for name, m in beside.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        for name, module in self._beside().items():
            module.load_state_dict(state[name])
        super().load_state_dict(state["supervised"] if self._beside() else state)

    def _beside(self) -> dict[str, nn.Module]:
        """What has a state and is no part of the network."""
        proxies: dict[str, nn.Module] = {"proxies": self.proxies} if len(self.proxies) else {}
        return proxies if self.teacher is None else {**proxies, "unlabelled": self.teacher}


def loss_warmup(t: float, epochs: float) -> float:
    """Return what the loss is multiplied with at progress `t`: 0.1 at the start, 1 from `epochs` on, linear between."""
    return min(1.0, 0.1 + 0.9 * t / epochs) if epochs else 1.0

"""DINO: self-distillation without labels (Caron et al., "Emerging Properties in Self-Supervised ViTs", ICCV 2021).

A student sees all views of each image, a teacher the two global ones. The student learns to predict the teacher's
output for other views of the same image. The teacher is the moving average of the student, and is what the run is for.
CION (`reidzoo.training.methods.cion`) is the same with batches of identities.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from reidzoo.data import ReIDDataset
from reidzoo.data.loaders import ImageDataset
from reidzoo.data.samplers import EpochSampler, ShuffleSampler
from reidzoo.data.transforms import MultiCrop
from reidzoo.models._surgery import set_drop_path
from reidzoo.models.heads import DINOHead
from reidzoo.training._alarm import CollapseAlarm
from reidzoo.training._distributed import World
from reidzoo.training._engine import Method, Progress
from reidzoo.training._probe import held_out, retrieval
from reidzoo.training.configs import PretrainConfig
from reidzoo.training.losses import IdentityDistillationLoss
from reidzoo.training.optim import build_optimizer, clip_each, decay_groups
from reidzoo.training.schedules import stepped, warmup_cosine


class MultiCropNetwork(nn.Module):
    """A backbone and a projection head over views of several sizes; each size passes the backbone once."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, views: list[Tensor], *, factors: bool = False) -> tuple[Tensor | tuple[Tensor, Tensor], Tensor]:
        """Map V views (B, 3, h, w), equal sizes side by side, to logits (V * B, O) and features (V * B, D).

        With `factors`, in place of the logits come the two matrices whose product they are, (V * B, 256) and (O, 256):
        the loss multiplies them block by block. The weight, too, leaves through here, where DDP sees that it is used.
        """
        features, start = [], 0
        for end in range(1, len(views) + 1):
            if end == len(views) or views[end].shape[-2:] != views[start].shape[-2:]:
                features.append(self.backbone(torch.cat(views[start:end])))
                start = end
        together = torch.cat(features)
        if factors:
            head = cast(DINOHead, self.head)
            return (head.bottleneck(together), head.last_layer.weight), together
        return self.head(together), together


class DINO(Method):
    """The method: see the module's first lines."""

    name = "dino"
    config: PretrainConfig

    def __init__(self, backbone: nn.Module, data: ReIDDataset, config: PretrainConfig, world: World) -> None:
        self.config, self.world = config, world
        width = int(backbone.embed_dim)  # type: ignore[arg-type]
        head = DINOHead(width, config.output_dim, hidden_dim=config.hidden_dim, batchnorm=config.head_batchnorm)
        head.last_layer.weight_g.requires_grad_(not config.norm_last_layer)
        self._given = copy.deepcopy(backbone).cpu()  # before stochastic depth and SyncBatchNorm
        student = MultiCropNetwork(backbone, head).to(world.device)
        if config.drop_path >= 0:
            set_drop_path(backbone, config.drop_path)
        if world.size > 1 and world.device.type == "cuda":
            student = nn.SyncBatchNorm.convert_sync_batchnorm(student)  # type: ignore[no-untyped-call]
        self.network = student
        self.teacher = self.make_teacher(student).requires_grad_(False)
        self.criterion = IdentityDistillationLoss(
            config.output_dim,
            2 + config.local_crops,
            config.teacher_temp,
            config.student_temp,
            config.center_momentum,
        ).to(world.device)
        self.optimizer = build_optimizer(
            config.optimizer, decay_groups(student), lr=config.lr, weight_decay=config.weight_decay
        )
        self.sampler = self.make_sampler(data.train.pid)
        self.views = self._views(backbone)
        self.dataset = ImageDataset(data.train, self.views, seed=config.seed)
        self._teacher_logits: list[Tensor] = []
        self._rates: dict[str, float] = {}
        self.held_out = held_out(data, config.probe, eval_every=config.eval_every)

    def make_teacher(self, student: nn.Module) -> nn.Module:
        """Copy the student without stochastic depth: a target should not be a random sub-network's."""
        return set_drop_path(copy.deepcopy(student), 0.0)

    def make_sampler(self, pids: np.ndarray) -> EpochSampler:
        """Plan batches of images in random order; identities play no part."""
        c, world = self.config, self.world
        return ShuffleSampler(len(pids), batch_size=c.batch_size, world_size=world.size, rank=world.rank, seed=c.seed)

    def num_instances(self, epoch: int) -> int:
        """Return K, how many consecutive rows of a batch are of one person: 1, since every image is on its own."""
        return 1

    def plan(self, epoch: int) -> np.ndarray:
        """Return the sampler's batches."""
        return self.sampler.epoch(epoch)

    def set_rates(self, progress: Progress) -> None:
        """Set the learning rate (linear in the images per step), the weight decay and the teacher's temperature."""
        c = self.config
        peak = c.lr * c.batch_size * self.world.size / 256
        lr = self.cosine(progress, peak, c.min_lr, warmup=c.warmup_epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self._rates = {
            "weight_decay": self.cosine(progress, c.weight_decay, c.weight_decay_end),
            "momentum": self.cosine(progress, c.teacher_momentum, 1.0),
            "teacher_temp": stepped(
                progress.epoch, start=c.teacher_temp_start, final=c.teacher_temp, epochs=c.teacher_temp_epochs
            ),
        }
        self.optimizer.param_groups[0]["weight_decay"] = self._rates["weight_decay"]
        self.criterion.teacher_temp = self._rates["teacher_temp"]

    def rates(self) -> dict[str, float]:
        """Return what `set_rates` chose, beside the learning rate."""
        return dict(self._rates)

    def loss(self, network: nn.Module, views: list[Tensor], pids: Tensor, progress: Progress) -> dict[str, Tensor]:
        """Compare what the student says of all views with what the teacher says of the global ones.

        Beside the loss: ``teacher_entropy`` (of the sharpened targets, in nats: log O means that the teacher says
        nothing, 0 that it says one thing), ``kl`` (what is left of the loss without it), ``center_norm``, and
        ``feature_std`` (of the student's L2-normalised features over the batch, mean over dimensions; 0: collapse).
        """
        with torch.no_grad():
            if self.views.deferred:
                views = self.views.finish(views)
            teacher, _ = self.teacher(views[:2])
        (student, weight), features = network(views, factors=True)
        k = self.num_instances(progress.epoch)
        loss = self.criterion.fused(student, weight, teacher, num_instances=k, update_center=False)
        self._teacher_logits.append(teacher)
        with torch.no_grad():
            entropy = self.criterion.entropy(teacher)
            spread = F.normalize(features[: len(pids)].float(), dim=-1).std(0, correction=0).mean()
        return {
            "loss": loss,
            "teacher_entropy": entropy,
            "kl": loss.detach() - entropy,
            "center_norm": self.criterion.center.norm(),
            "feature_std": spread,
        }

    def before_step(self, progress: Progress) -> None:
        """Clip each tensor's gradient; in the first epochs, let the head's last layer rest."""
        if self.config.clip_grad:
            clip_each(self.network.parameters(), self.config.clip_grad)
        if progress.epoch < self.config.freeze_last_layer:
            for p in self.network.head.last_layer.parameters():  # type: ignore[union-attr]
                p.grad = None

    def after_step(self, progress: Progress) -> None:
        """Move the centre and the teacher."""
        self.criterion.update_center(torch.cat(self._teacher_logits))
        self._teacher_logits.clear()
        # Parameters only: the teacher's BatchNorm statistics come from its own passes over the global views.
        average = get_ema_multi_avg_fn(self._rates["momentum"])  # type: ignore[no-untyped-call]
        average(list(self.teacher.parameters()), list(self.network.parameters()), None)

    def alarm(self) -> CollapseAlarm:
        """Return what looks for a collapse of the student's features and the teacher's targets."""
        c = self.config
        return CollapseAlarm.of_distillation(
            width=int(self.network.backbone.embed_dim),  # type: ignore[arg-type, union-attr]
            outputs=c.output_dim,
            images=c.micro_batch or c.batch_size,
            start=c.warmup_epochs,
            patience=c.collapse_steps,
        )

    def evaluate(self) -> dict[str, float]:
        """Return mAP, Rank-1/5/10 and mINP of the teacher's features on held-out images."""
        c, teacher = self.config, cast(nn.Module, self.teacher.backbone)
        return retrieval(
            teacher, self.held_out, img_size=c.img_size, device=self.world.device, num_workers=c.num_workers
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the student's, the teacher's and the loss's tensors."""
        parts = {"student": self.network, "teacher": self.teacher, "loss": self.criterion}
        return {name: module.state_dict() for name, module in parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.network.load_state_dict(state["student"])
        self.teacher.load_state_dict(state["teacher"])
        self.criterion.load_state_dict(state["loss"])

    def networks(self) -> list[nn.Module]:
        """Return the student and the teacher."""
        return [self.network, self.teacher]

    def trained(self) -> nn.Module:
        """Return the backbone as it was given, with the teacher's weights."""
        backbone = copy.deepcopy(self._given)
        backbone.load_state_dict(cast(nn.Module, self.teacher.backbone).state_dict())
        return backbone

    def cosine(self, progress: Progress, base: float, final: float, *, warmup: float = 0.0) -> float:
        """Return where a value is on its way from `base` to `final`, after `warmup` epochs on its way from 0."""
        return warmup_cosine(progress.t, epochs=self.config.epochs, base=base, final=final, warmup=warmup)

    def _views(self, backbone: nn.Module) -> MultiCrop:
        c = self.config
        pretrained_cfg: dict[str, Any] = backbone.pretrained_cfg  # type: ignore[assignment]
        return MultiCrop(
            c.img_size,
            c.local_size,
            c.local_crops,
            mean=pretrained_cfg["mean"],
            std=pretrained_cfg["std"],
            global_scale=c.global_scale,
            local_scale=c.local_scale,
            ratio=c.crop_ratio if c.crop_ratio[0] else None,
            deferred=self.world.device.type == "cuda",  # decode and crop on the CPU, all else in batches on the GPU
        )

"""CION pre-training (Zuo et al., "Cross-video Identity Correlating for Person Re-identification Pre-training", 2024).

A student sees ten views of each image, a teacher the two global ones. The student learns to predict the teacher's
output for other views of the same image and, that is CION, for other images of the same person. The teacher is the
moving average of the student, and is what the run is for.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from reidzoo.data import ReIDDataset
from reidzoo.data.loaders import ImageDataset
from reidzoo.data.samplers import GradualIdentitySampler
from reidzoo.data.transforms import MultiCrop
from reidzoo.models.heads import DINOHead
from reidzoo.training._distributed import World
from reidzoo.training._engine import Method, Progress
from reidzoo.training.configs import CIONConfig
from reidzoo.training.losses import IdentityDistillationLoss
from reidzoo.training.optim import clip_each, decay_groups
from reidzoo.training.schedules import warmup_cosine


class MultiCropNetwork(nn.Module):
    """A backbone and a projection head over views of several sizes; each size passes the backbone once."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, views: list[Tensor]) -> Tensor:
        """Map V views (B, 3, h, w), equal sizes side by side, to logits (V * B, O), view-major."""
        features, start = [], 0
        for end in range(1, len(views) + 1):
            if end == len(views) or views[end].shape[-2:] != views[start].shape[-2:]:
                features.append(self.backbone(torch.cat(views[start:end])))
                start = end
        logits: Tensor = self.head(torch.cat(features))
        return logits


class CION(Method):
    """The method, as its release trains: see the module's first lines."""

    name = "cion"

    def __init__(self, backbone: nn.Module, data: ReIDDataset, config: CIONConfig, world: World) -> None:
        self.config, self.world = config, world
        train = data.train
        head = DINOHead(
            int(backbone.embed_dim),  # type: ignore[arg-type]
            config.output_dim,
            hidden_dim=config.hidden_dim,
            batchnorm=config.head_batchnorm,
        )
        student = MultiCropNetwork(backbone, head).to(world.device)
        if world.size > 1 and world.device.type == "cuda":
            student = nn.SyncBatchNorm.convert_sync_batchnorm(student)  # type: ignore[no-untyped-call]
        self.network = student
        self.teacher = _without_drop_path(copy.deepcopy(student)).requires_grad_(False)
        self.criterion = IdentityDistillationLoss(
            config.output_dim,
            2 + config.local_crops,
            config.teacher_temp,
            config.student_temp,
            config.center_momentum,
        ).to(world.device)
        self.optimizer = torch.optim.AdamW(decay_groups(student), lr=config.lr, weight_decay=config.weight_decay)
        self.sampler = GradualIdentitySampler(
            train.pid,
            batch_size=config.batch_size,
            num_instances=config.num_instances,
            world_size=world.size,
            rank=world.rank,
            seed=config.seed,
        )
        pretrained_cfg: dict[str, Any] = backbone.pretrained_cfg  # type: ignore[assignment]
        self.views = MultiCrop(
            config.img_size,
            config.local_size,
            config.local_crops,
            mean=pretrained_cfg["mean"],
            std=pretrained_cfg["std"],
            global_scale=config.global_scale,
            local_scale=config.local_scale,
            deferred=world.device.type == "cuda",  # decode and crop on the CPU, all else in batches on the GPU
        )
        self.dataset = ImageDataset(train, self.views, seed=config.seed)
        self._teacher_logits: list[Tensor] = []

    def plan(self, epoch: int) -> np.ndarray:
        """Return identity-wise batches: K consecutive rows are images of one person, K grows with the epochs."""
        return self.sampler.epoch(epoch)

    def set_rates(self, progress: Progress) -> None:
        """Set the learning rate (linear in the images per step, warmed up, then a cosine) and the weight decay."""
        c, t = self.config, progress.t
        peak = c.lr * c.batch_size * self.world.size / 256
        lr = warmup_cosine(t, epochs=c.epochs, base=peak, final=c.min_lr, warmup=c.warmup_epochs)
        decay = warmup_cosine(t, epochs=c.epochs, base=c.weight_decay, final=c.weight_decay_end)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.param_groups[0]["weight_decay"] = decay

    def loss(self, network: nn.Module, views: list[Tensor], pids: Tensor, progress: Progress) -> dict[str, Tensor]:
        """Compare what the student says of all views with what the teacher says of the global ones."""
        with torch.no_grad():
            if self.views.deferred:
                views = self.views.finish(views)
            teacher = self.teacher(views[:2])
        student = network(views)
        k = self.sampler.num_instances(progress.epoch)
        loss = self.criterion(student, teacher, num_instances=k, update_center=False)
        self._teacher_logits.append(teacher)
        probabilities = ((teacher.float() - self.criterion.center) / self.config.teacher_temp).softmax(-1)
        entropy = -torch.special.xlogy(probabilities, probabilities).sum(-1).mean()
        return {"loss": loss, "teacher_entropy": entropy}

    def before_step(self, progress: Progress) -> None:
        """Clip each tensor's gradient; in the first epochs, let the head's last layer rest (both as in DINO)."""
        if self.config.clip_grad:
            clip_each(self.network.parameters(), self.config.clip_grad)
        if progress.epoch < self.config.freeze_last_layer:
            for p in self.network.head.last_layer.parameters():  # type: ignore[union-attr]
                p.grad = None

    def after_step(self, progress: Progress) -> None:
        """Move the centre and the teacher."""
        self.criterion.update_center(torch.cat(self._teacher_logits))
        self._teacher_logits.clear()
        c = self.config
        momentum = warmup_cosine(progress.t, epochs=c.epochs, base=c.teacher_momentum, final=1.0)
        # Parameters only: the teacher's BatchNorm statistics come from its own passes over the global views.
        average = get_ema_multi_avg_fn(momentum)  # type: ignore[no-untyped-call]
        average(list(self.teacher.parameters()), list(self.network.parameters()), None)

    def state_dict(self) -> dict[str, Any]:
        """Return the student's, the teacher's and the loss's tensors."""
        parts = {"student": self.network, "teacher": self.teacher, "loss": self.criterion}
        return {name: module.state_dict() for name, module in parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.network.load_state_dict(state["student"])
        self.teacher.load_state_dict(state["teacher"])
        self.criterion.load_state_dict(state["loss"])

    def trained(self) -> nn.Module:
        """Return the teacher's backbone, ready to be trained further: what is trained in the student is again."""
        backbone: nn.Module = self.teacher.backbone  # type: ignore[assignment]
        students: Any = self.network.backbone
        for mine, its in zip(backbone.parameters(), students.parameters(), strict=True):
            mine.requires_grad_(its.requires_grad)
        return backbone


def _without_drop_path(network: nn.Module) -> nn.Module:
    """Switch stochastic depth off: the teacher's target should not be a random sub-network's (DINO does the same)."""
    for module in network.modules():
        if isinstance(getattr(module, "drop_prob", None), float):
            module.drop_prob = 0.0  # type: ignore[assignment]
    return network

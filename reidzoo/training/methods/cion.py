"""CION pre-training (Zuo et al., "Cross-video Identity Correlating for Person Re-identification Pre-training", 2024).

DINO on batches of identities: the student learns to predict the teacher's output for other views of the same image
and, that is CION, for other images of the same person. How many images of a person meet, K, grows with the epochs.

What the released code does otherwise than it should is put right, and can be had back by a setting of its own; all of
them together are the recipe ``cion/release``.
"""

from __future__ import annotations

import copy

import numpy as np
from torch import nn

from reidzoo.data import ReIDDataset
from reidzoo.data.samplers import GradualIdentitySampler
from reidzoo.training._distributed import World
from reidzoo.training._engine import Progress
from reidzoo.training.configs import CIONConfig
from reidzoo.training.methods.dino import DINO
from reidzoo.training.schedules import released_cosine


class CION(DINO):
    """The method: see the module's first lines."""

    name = "cion"
    config: CIONConfig
    sampler: GradualIdentitySampler

    def __init__(self, backbone: nn.Module, data: ReIDDataset, config: CIONConfig, world: World) -> None:
        super().__init__(backbone, data, config, world)
        self.unscale_first = not config.clip_scaled_grads
        self.criterion.variant = config.loss_variant

    def make_sampler(self, pids: np.ndarray) -> GradualIdentitySampler:
        """Plan batches of identities: K consecutive rows are images of one person."""
        c, world = self.config, self.world
        return GradualIdentitySampler(
            pids,
            batch_size=c.batch_size,
            num_instances=c.num_instances,
            world_size=world.size,
            rank=world.rank,
            seed=c.seed,
            remainder=c.remainder,  # type: ignore[arg-type]  # the config has checked the words
            short_ids=c.short_ids,  # type: ignore[arg-type]
            tail=c.tail,  # type: ignore[arg-type]
            rank_slices=c.rank_slices,
        )

    def make_teacher(self, student: nn.Module) -> nn.Module:
        """Copy the student, without its stochastic depth unless the config says so."""
        return copy.deepcopy(student) if self.config.teacher_drop_path else super().make_teacher(student)

    def num_instances(self, epoch: int) -> int:
        """Return the epoch's K."""
        return self.sampler.num_instances(epoch)

    def set_rates(self, progress: Progress) -> None:
        """Set DINO's rates, and note K beside them."""
        super().set_rates(progress)
        self._rates["num_instances"] = self.num_instances(progress.epoch)

    def cosine(self, progress: Progress, base: float, final: float, *, warmup: float = 0.0) -> float:
        """Return DINO's value, or the entry of the release's table."""
        if self.config.schedule == "progress":
            return super().cosine(progress, base, final, warmup=warmup)
        step = progress.iterations * progress.epoch + progress.iteration
        steps = self.sampler.released_steps()
        return released_cosine(step, epochs=self.config.epochs, steps=steps, base=base, final=final, warmup=warmup)

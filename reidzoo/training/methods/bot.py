"""Bag of tricks (Luo et al., "Bag of Tricks and a Strong Baseline for Deep Person Re-identification", CVPRW 2019).

TransReID's losses come from here; beside them there is a centre loss, hinges in the place of soft margins, label
smoothing, and Adam with a warm-up and steps. GeM pooling and non-local blocks, which AGW (Ye et al., "Deep Learning for
Person Re-identification", TPAMI 2021) adds, are ``pool="gem"`` and ``non_local=True``.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from reidzoo.data import Records, ReIDDataset
from reidzoo.models.attention import add_non_local
from reidzoo.models.heads import HeadOutput
from reidzoo.training._distributed import World
from reidzoo.training._engine import Progress
from reidzoo.training.configs import BoTConfig
from reidzoo.training.losses import CenterLoss
from reidzoo.training.methods.transreid import TransReID
from reidzoo.training.schedules import warmup_steps


class BoT(TransReID):
    """The method: see the module's first lines."""

    name = "bot"
    config: BoTConfig

    def __init__(self, backbone: nn.Module, data: ReIDDataset, config: BoTConfig, world: World) -> None:
        super().__init__(backbone, data, config, world)
        width = config.feat_dim or int(backbone.embed_dim)  # type: ignore[arg-type]
        self.centers = CenterLoss(data.train.num_pids, width).to(world.device)

    def make_network(self, backbone: nn.Module, train: Records) -> nn.Module:
        """Put the non-local blocks into the backbone, then the head on it."""
        if self.config.non_local:
            add_non_local(backbone)
        return super().make_network(backbone, train)

    def rate(self, progress: Progress, peak: float) -> float:
        """Return the rate of this epoch."""
        c = self.config
        t = progress.epoch + c.lr_ahead
        return warmup_steps(t, base=peak, warmup=c.warmup_epochs, milestones=c.milestones)

    def terms(self, output: HeadOutput, pids: Tensor, progress: Progress) -> dict[str, tuple[float, Tensor]]:
        """Add the centre loss, on the feature before the neck."""
        terms = super().terms(output, pids, progress)
        if self.config.center_weight:
            terms["center"] = (self.config.center_weight, self.centers(output.features[0], pids))
        return terms

    def state_dict(self) -> dict[str, Any]:
        """Return the network's tensors and the centres."""
        return {"supervised": super().state_dict(), "centers": self.centers.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        super().load_state_dict(state["supervised"])
        self.centers.load_state_dict(state["centers"])

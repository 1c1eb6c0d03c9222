"""PCB (Sun et al., "Beyond Part Models", ECCV 2018): the baseline, with a classifier for each of six parts."""

from __future__ import annotations

from torch import Tensor

from reidzoo.data import Records
from reidzoo.models import heads
from reidzoo.training.configs import PCBConfig
from reidzoo.training.methods.baseline import Baseline


class PCB(Baseline):
    """The method: see the module's first lines. Metric losses compare part with part."""

    name = "pcb"
    config: PCBConfig

    def make_head(self, width: int, train: Records) -> heads.Head:
        """Return a head of parts."""
        c = self.config
        return heads.PCB(width, train.num_pids, parts=c.parts, width=c.bottleneck, dropout=c.dropout)

    def opinion(self, logits: list[Tensor]) -> Tensor:
        """Return the mean of the parts' probabilities; the release takes it for logits."""
        together = super().opinion(logits)
        return together.softmax(-1) if self.config.compat == "layumi" else together

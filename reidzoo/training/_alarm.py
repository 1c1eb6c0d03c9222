"""The collapse alarm: when all images get the same features, a run goes on without learning anything."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from reidzoo._logging import get_logger

_WARN_STEPS = 50

logger = get_logger(__name__)


class CollapseAlarm:
    """Watches numbers of the log that say whether a run has collapsed.

    It counts the steps in a row in which any number is outside its healthy range: at 50 it warns, at `patience` it
    says that the run should stop. A run that goes on from a checkpoint starts counting anew.

    Args:
        healthy: Lowest and highest healthy value by the name that the number has in the log.
        start: Epochs before the alarm is on: a new network's features are alike, and stay so until it learns.
        patience: Steps after which the run stops; 0: it only warns.
    """

    def __init__(self, healthy: Mapping[str, tuple[float, float]], *, start: float = 0.0, patience: int = 0) -> None:
        self.healthy, self.start, self.patience = dict(healthy), start, patience
        self.steps = 0

    @classmethod
    def of_distillation(cls, *, width: int, outputs: int, images: int, start: float, patience: int) -> CollapseAlarm:
        """The alarm of a teacher and a student.

        Two ways to collapse are known (Caron et al., 2021, section 5.3): every output gets the same probability, which
        is an entropy of log O, or one output gets all of it, which is an entropy of 0. In front of the head, the
        standard deviation of L2-normalised features is ``1 / sqrt(D)`` at most, over a batch and averaged over their
        dimensions; times ``sqrt(D)`` it is about ``sqrt(1 - c)`` for a mean cosine c between the images.

        Args:
            width: Width D of the backbone's feature.
            outputs: Width O of the head's output.
            images: Images whose features are compared; a single one has nothing to differ from.
            start: As above.
            patience: As above.
        """
        most = math.log(outputs)
        healthy = {
            "feature_std": (0.05 / math.sqrt(width) if images > 1 else 0.0, math.inf),  # a mean cosine of 0.9975
            "teacher_entropy": (0.001 * most, 0.995 * most),
        }
        return cls(healthy, start=start, patience=patience)

    def see(self, row: Mapping[str, Any]) -> str:
        """Look at a step of the log; return why the run should stop, "" while it may go on."""
        bad = {n: row[n] for n, (low, high) in self.healthy.items() if n in row and not low <= row[n] <= high}
        if not bad or row["t"] < self.start:
            if self.steps >= _WARN_STEPS:
                logger.warning("step %d: what the collapse alarm watches is healthy again", row["step"])
            self.steps = 0
            return ""
        self.steps += 1
        why = self._say(row, bad)
        if self.steps == _WARN_STEPS:
            logger.warning("%s. A new run may need a lower lr, a longer warm-up or head_batchnorm=True.", why)
        return why if self.steps == self.patience else ""

    def _say(self, row: Mapping[str, Any], bad: Mapping[str, float]) -> str:
        found = " and ".join(
            f"{name} is {value:.4g}, expected "
            + (f"at least {low:.4g}" if high == math.inf else f"{low:.4g} to {high:.4g}")
            for name, value in bad.items()
            for low, high in [self.healthy[name]]
        )
        return f"the features have collapsed, for {self.steps} steps up to step {row['step']}: {found}"

"""Where a run's numbers can be watched beside ``metrics.jsonl``: TensorBoard and Weights & Biases."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, Protocol

from reidzoo._files import atomic
from reidzoo._logging import get_logger
from reidzoo.training._checkpoint import RunFolder

logger = get_logger(__name__)


class Board(Protocol):
    """Something that shows numbers over the steps of a run."""

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Show the numbers of a step."""

    def close(self, *, failed: bool) -> None:
        """Write what is left and say how the run ended."""


def boards(folder: RunFolder, first_step: int) -> list[Board]:
    """Return what a run writes to: TensorBoard where it is installed, W&B where it is asked for.

    Args:
        folder: of the run; local files go there.
        first_step: steps that are finished already. TensorBoard hides what an interrupted run did after them.
    """
    return [board for board in (_tensorboard(folder, first_step), _wandb(folder)) if board is not None]


class _TensorBoard:
    def __init__(self, writer: Any) -> None:
        self.writer = writer

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, step)

    def close(self, *, failed: bool) -> None:
        self.writer.close()


class _WandB:
    def __init__(self, run: Any) -> None:
        self.run = run

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        self.run.log(dict(numbers), step=step)

    def close(self, *, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))


def _tensorboard(folder: RunFolder, first_step: int) -> Board | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return _TensorBoard(SummaryWriter(str(folder.tensorboard), purge_step=first_step + 1))


def _wandb(folder: RunFolder) -> Board | None:
    """A W&B run if W&B's own WANDB_PROJECT is set: an installed package alone must not send anything anywhere."""
    if not os.environ.get("WANDB_PROJECT"):
        return None
    try:
        import wandb
    except ImportError:
        logger.warning("WANDB_PROJECT is set, but wandb is not installed, so the run is not sent: pip install wandb")
        return None
    folder.wandb.mkdir(exist_ok=True)
    known = folder.wandb / "run_id"  # a run that goes on stays one run there
    run = wandb.init(
        dir=str(folder.path),
        id=known.read_text() if known.exists() else None,
        resume="allow",
        name=os.environ.get("WANDB_NAME") or folder.path.resolve().name,
        config=json.loads(folder.config.read_text()),
    )
    with atomic(known) as temporary:
        temporary.write_text(run.id)
    return _WandB(run)

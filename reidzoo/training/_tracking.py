"""What a run says while it goes: a progress bar, ``metrics.jsonl``, and the boards that people look at."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import torch
from torch import Tensor

from reidzoo import _logging
from reidzoo._files import atomic
from reidzoo.errors import DivergedError
from reidzoo.training._alarm import CollapseAlarm
from reidzoo.training._boards import Board, boards
from reidzoo.training._checkpoint import RunFolder
from reidzoo.training._distributed import World, all_reduce_sum

logger = _logging.get_logger(__name__)

_FLUSH_STEPS = 10


class Tracker:
    """Collects each step's numbers as tensors and writes them in groups, so that no step waits for the device.

    To each step's numbers it adds ``images_per_s``, a rank's mean over the group, loading included, and ``memory_gb``,
    the most that rank 0 has had in use: of its GPU's memory, or of the machine's.

    Args:
        done: epochs and steps that are finished already; later lines of an interrupted run are dropped from the log.
        images: per step and rank.
        alarm: looks at every step's numbers, if the method has one.
    """

    def __init__(
        self,
        folder: RunFolder,
        world: World,
        *,
        desc: str,
        done: tuple[int, int],
        images: int,
        alarm: CollapseAlarm | None = None,
    ) -> None:
        self.folder, self.world, self.images, self.alarm = folder, world, images, alarm
        self._since = time.perf_counter()
        self._pending: list[tuple[int, dict[str, Tensor], dict[str, float]]] = []
        self._boards: list[Board] = []
        if world.is_main:
            _drop_lines_after(folder.metrics, *done)
            self._boards = boards(folder, done[1])
        self.bar = _logging.progress(desc=desc, initial=done[1], unit="step")

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()
        for board in self._boards:
            board.close(failed=error is not None)

    def expect(self, total_steps: int) -> None:
        """Begin an epoch: tell the progress bar how many steps the run will have, and start the clock."""
        self.bar.total = total_steps
        self.bar.refresh()
        self._since = time.perf_counter()

    def step(self, step: int, tensors: dict[str, Tensor], scalars: dict[str, float]) -> None:
        """Note the numbers of a finished step; `tensors` are this rank's, averaged over ranks when written."""
        self._pending.append((step, {k: v.detach() for k, v in tensors.items()}, scalars))
        self.bar.update()
        if len(self._pending) >= _FLUSH_STEPS:
            self.flush()

    def flush(self) -> None:
        """Write what is pending.

        Raises:
            DivergedError: a loss is not finite, or the features have collapsed; on all ranks alike.
        """
        if not self._pending:
            return
        names = list(self._pending[0][1])
        values = torch.stack([torch.stack([row[n].float() for n in names]) for _, row, _ in self._pending])
        values, ranks = all_reduce_sum(values)
        numbers = (values / ranks).tolist()
        cost = self._cost()
        rows = [
            {"step": step, **dict(zip(names, row, strict=True)), **scalars, **cost}
            for (step, _, scalars), row in zip(self._pending, numbers, strict=True)
        ]
        self._pending.clear()
        self.write(*rows)
        last = rows[-1]
        formats = {"loss": ".4f", "accuracy": ".1%", "lr": ".2e", "images_per_s": ".0f"}
        said = {name.replace("_per_", "/"): format(last[name], form) for name, form in formats.items() if name in last}
        self.bar.set_postfix(said, refresh=False)
        for row in rows:
            if not math.isfinite(row["loss"]):
                self._stop(row["step"], f"the loss is {row['loss']} at step {row['step']}", "precision='fp32'")
            if self.alarm is not None and (why := self.alarm.see(row)):
                self._stop(row["step"], why, "head_batchnorm=True; with collapse_steps=0 it only warns")

    def _stop(self, step: int, why: str, remedy: str) -> NoReturn:
        raise DivergedError(
            f"{why}. The run stops; its last checkpoint, if any, is {self.folder.last}, its state is in "
            f"{self.folder.failed}, the batch of that step in {self.folder.failed_batch.name} beside it. "
            f"Start anew with a lower lr, a longer warm-up or {remedy}.",
            step,
        )

    def _cost(self) -> dict[str, float]:
        """Speed since the last group, and peak memory; the numbers of the group are here, so its steps are done."""
        now = time.perf_counter()
        speed = self.images * len(self._pending) / (now - self._since)
        self._since = now
        return {"images_per_s": round(speed, 1), "memory_gb": round(_peak_memory(self.world.device) / 1e9, 3)}

    def end_epoch(self, row: dict[str, Any], epochs: int) -> None:
        """Write the row of a finished epoch; where nobody sees the bar, as in a batch job, say it in a line."""
        self.write(row)
        if self.bar.disable:
            scores = [f", {name} {100 * row[name]:.1f}" for name in ("mAP", "Rank-1") if name in row]
            logger.info("epoch %d of %d: loss %.4f%s", row["epoch"], epochs, row["loss"], "".join(scores))

    def write(self, *rows: dict[str, Any]) -> None:
        """Append rows to the log, on the main rank."""
        if not self.world.is_main:
            return
        with self.folder.metrics.open("a", encoding="utf-8") as f:
            f.writelines(json.dumps(row) + "\n" for row in rows)
            f.flush()
            os.fsync(f.fileno())
        for row in rows:
            place = "epoch/" if "epoch" in row else ""  # the mean loss of an epoch is no point of the steps' curve
            numbers = {place + name: value for name, value in row.items() if isinstance(value, float)}
            for board in self._boards:
                board.log(numbers, row["step"])


def read_history(path: Path, kind: str = "epoch") -> list[dict[str, Any]]:
    """Return the log's rows per finished ``epoch``, or per ``step``."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if ("epoch" in row) == (kind == "epoch")]


def _drop_lines_after(path: Path, epoch: int, step: int) -> None:
    """Forget what the interrupted run wrote after its last checkpoint (also a line cut short).

    Behind an epoch's last step a checkpoint may be of before the evaluation, which will be made and written again.
    """
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        if row["step"] <= step and row.get("epoch", 0) <= epoch:
            kept.append(line + "\n")
    with atomic(path) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")


def _peak_memory(device: torch.device) -> float:
    """The most bytes that this process has used: on its GPU as torch allocates it, else of the machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return math.nan
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

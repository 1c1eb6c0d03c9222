"""What a run says while it goes: a progress bar, ``metrics.jsonl``, TensorBoard where it is installed, curves."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from reidzoo import _logging
from reidzoo.errors import TrainingError
from reidzoo.training._checkpoint import RunFolder
from reidzoo.training._distributed import World, all_reduce_sum

_FLUSH_STEPS = 10


class Tracker:
    """Collects each step's numbers as tensors and writes them in groups, so that no step waits for the device.

    Args:
        first_step: steps that are finished already; later lines of an interrupted run are dropped from the log.
    """

    def __init__(self, folder: RunFolder, world: World, *, desc: str, first_step: int) -> None:
        self.folder, self.world = folder, world
        self._pending: list[tuple[int, dict[str, Tensor], dict[str, float]]] = []
        self._board: Any = None
        if world.is_main:
            _drop_lines_after(folder.metrics, first_step)
            self._board = _tensorboard(folder.path)
        self.bar = _logging.progress(desc=desc, initial=first_step, unit="step")

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()
        if self._board is not None:
            self._board.close()

    def expect(self, total_steps: int) -> None:
        """Tell the progress bar how many steps the run will have."""
        self.bar.total = total_steps
        self.bar.refresh()

    def step(self, step: int, tensors: dict[str, Tensor], scalars: dict[str, float]) -> None:
        """Note the numbers of a finished step; `tensors` are this rank's, averaged over ranks when written."""
        self._pending.append((step, {k: v.detach() for k, v in tensors.items()}, scalars))
        self.bar.update()
        if len(self._pending) >= _FLUSH_STEPS:
            self.flush()

    def flush(self) -> None:
        """Write what is pending.

        Raises:
            TrainingError: a loss is not finite, on all ranks alike.
        """
        if not self._pending:
            return
        names = list(self._pending[0][1])
        values = torch.stack([torch.stack([row[n].float() for n in names]) for _, row, _ in self._pending])
        values, ranks = all_reduce_sum(values)
        numbers = (values / ranks).tolist()
        rows = [
            {"step": step, **dict(zip(names, row, strict=True)), **scalars}
            for (step, _, scalars), row in zip(self._pending, numbers, strict=True)
        ]
        self._pending.clear()
        self.write(*rows)
        self.bar.set_postfix(loss=f"{rows[-1]['loss']:.4f}", lr=f"{rows[-1]['lr']:.2e}", refresh=False)
        bad = [row for row in rows if not math.isfinite(row["loss"])]
        if bad:
            raise TrainingError(
                f"the loss is {bad[0]['loss']} at step {bad[0]['step']}. The run stops; its last "
                f"checkpoint, if any, is {self.folder.last}. Try a lower lr, precision='fp32', or a longer warm-up."
            )

    def write(self, *rows: dict[str, Any]) -> None:
        """Append rows to the log, on the main rank."""
        if not self.world.is_main:
            return
        with self.folder.metrics.open("a", encoding="utf-8") as f:
            f.writelines(json.dumps(row) + "\n" for row in rows)
            f.flush()
            os.fsync(f.fileno())
        if self._board is not None:
            for row in rows:
                for name, value in row.items():
                    if isinstance(value, float):
                        self._board.add_scalar(name, value, row["step"])


def read_history(path: Path, kind: str = "epoch") -> list[dict[str, Any]]:
    """Return the log's rows per finished ``epoch``, or per ``step``."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if ("epoch" in row) == (kind == "epoch")]


def draw_curves(steps: list[dict[str, Any]], epochs: list[dict[str, Any]], path: Path, title: str) -> None:
    """Draw the loss per step, the learning rate and, where the run was evaluated more than once, mAP and Rank-1."""
    from reidzoo.eval.chart import Panel, line_chart

    thin = steps[:: max(1, len(steps) // 2000)]
    x = [row["step"] for row in thin]
    panels: list[Panel] = [
        {"series": {"loss": (x, [row["loss"] for row in thin])}, "ylabel": "loss"},
        {"series": {"lr": (x, [row["lr"] for row in thin])}, "ylabel": "learning rate"},
    ]
    seen = [row for row in epochs if "mAP" in row]
    if len(seen) > 1:
        at = [row["step"] for row in seen]
        scores = {name: (at, [100 * row[name] for row in seen]) for name in ("mAP", "Rank-1")}
        panels.append({"series": scores, "ylabel": "%"})
    line_chart(panels, path, title=title, xlabel="step")


def _drop_lines_after(path: Path, step: int) -> None:
    """Forget rows of steps that the interrupted run made after its last checkpoint (also a line cut short)."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        if row["step"] <= step:
            kept.append(line + "\n")
    path.write_text("".join(kept), encoding="utf-8")


def _tensorboard(folder: Path) -> Any:
    """A TensorBoard writer, or None where the package is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"))

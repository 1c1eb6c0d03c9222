"""The curves of a run as one picture: all that its log has, one panel each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reidzoo.eval.chart import Panel, line_chart

Rows = Sequence[Mapping[str, Any]]

_POINTS = 500  # of a line: a longer run is averaged down to as many

# Panels in this order, with the numbers of the log that each shows; those that a method does not log are left out, and
# what only one method logs, such as a further loss, has a panel of its own behind the first.
_PANELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("loss", ("loss", "id_loss", "triplet")),
    ("teacher entropy", ("teacher_entropy",)),
    ("feature std", ("feature_std",)),
    ("centre norm", ("center_norm",)),
    ("accuracy", ("accuracy",)),
    ("learning rate", ("lr",)),
    ("weight decay", ("weight_decay",)),
    ("teacher momentum", ("momentum",)),
    ("images per identity", ("num_instances",)),
    ("images/s per rank", ("images_per_s",)),
)
_NO_CURVES = {"step", "t", "memory_gb"}
_SCORES = ("mAP", "Rank-1")  # their panel is the second


def draw_curves(steps: Rows, epochs: Rows, path: Path, title: str) -> None:
    """Draw what the log has per step and, where the run was evaluated more than once, mAP and Rank-1.

    Args:
        steps: rows of the log, one per step.
        epochs: rows of the log, one per epoch.
        path: the PNG to write.
        title: over the picture.
    """
    panels: list[Panel] = []
    known = _NO_CURVES.union(*(names for _, names in _PANELS))
    others = [(name.replace("_", " "), (name,)) for name in steps[-1] if name not in known]
    for label, names in (_PANELS[0], *others, *_PANELS[1:]):
        found = [name for name in names if name in steps[-1]]
        if found:
            panels.append({"series": {name: _line(steps, name) for name in found}, "ylabel": label})
    seen = [row for row in epochs if "mAP" in row]
    if len(seen) > 1:
        at = [row["step"] for row in seen]
        scores = {name: (at, [100 * row[name] for row in seen]) for name in _SCORES}
        panels.insert(1, {"series": scores, "ylabel": "held-out images, %"})
    line_chart(panels, path, title=title, xlabel="step", columns=4)


def _line(steps: Rows, name: str) -> tuple[list[float], list[float]]:
    """A number over the steps, as means over as many equal parts as are drawn."""
    rows = [row for row in steps if name in row]  # a run may have begun with a version that did not log it
    parts = np.array_split(np.array([(row["step"], row[name]) for row in rows], float), min(len(rows), _POINTS))
    means = np.array([part.mean(0) for part in parts])
    return means[:, 0].tolist(), means[:, 1].tolist()

"""Synthetic weights and images of the golden outputs (see tests/data/golden/README.md)."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import reidzoo
from reidzoo.models import to_official

GOLDEN = Path(__file__).parents[1] / "data" / "golden"


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder that goes with the test: pytest would keep gigabytes of checkpoints in its own."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def undrawn() -> Callable[[], AbstractContextManager[None]]:
    """undrawn(): new networks start as NaN, where they are loaded next: drawing weights takes longer than loading."""

    @contextmanager
    def undrawn() -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for draw in ("uniform_", "normal_"):
                patch.setattr(Tensor, draw, lambda tensor, *args, **options: tensor.fill_(math.nan))
            patch.setattr(Tensor, "erfinv_", lambda tensor: tensor)
            yield

    return undrawn


@pytest.fixture(scope="session")
def manifest() -> dict:
    return json.loads((GOLDEN / "manifest.json").read_text())


@pytest.fixture(scope="session")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "outputs.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="session")
def official_state() -> Callable[..., dict[str, Tensor]]:
    """official_state(name, fill, seed=0, **options): a checkpoint's backbone in the official layout; no prefix."""

    def integers(key: str, shape: tuple[int, ...]) -> Tensor:
        if not key.endswith("relative_position_index"):
            return torch.zeros(shape, dtype=torch.int64)  # batch counters
        side = math.isqrt(shape[0])  # of Swin's windows
        y, x = torch.arange(shape[0]) // side, torch.arange(shape[0]) % side
        return (y[:, None] - y + side - 1) * (2 * side - 1) + (x[:, None] - x + side - 1)

    def official_state(name: str, fill: Callable[..., Tensor], seed: int = 0, **options: Any) -> dict[str, Tensor]:
        with torch.device("meta"):
            model = reidzoo.create_model(name, **options)
        return {
            key: fill(key, tuple(t.shape), seed) if t.is_floating_point() else integers(key, tuple(t.shape))
            for key, t in to_official(model.state_dict(), model).items()
        }

    return official_state


@pytest.fixture(scope="session")
def resize_by_rule() -> Callable[..., Tensor]:
    """resize_by_rule(grid (1, h, w, C), size): cubic, sampling points by the ratio old / (new + 0.1); tap by tap."""

    def cubic(t: float, a: float = -0.75) -> float:
        t = abs(t)
        if t <= 1:
            return (a + 2) * t**3 - (a + 3) * t**2 + 1
        return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0

    def along_first_axis(x: np.ndarray, new: int) -> np.ndarray:
        old, out = len(x), []
        for i in range(new):
            at = (i + 0.5) * old / (new + 0.1) - 0.5
            taps = [(math.floor(at) + k, cubic(at - math.floor(at) - k)) for k in (-1, 0, 1, 2)]
            out.append(sum(weight * x[min(max(j, 0), old - 1)] for j, weight in taps))
        return np.stack(out)

    def resize(grid: Tensor, size: tuple[int, int]) -> Tensor:
        rows = along_first_axis(grid[0].double().numpy(), size[0])
        both = along_first_axis(rows.transpose(1, 0, 2), size[1]).transpose(1, 0, 2)
        return torch.from_numpy(both).float()[None]

    return resize

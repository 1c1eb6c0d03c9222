"""A small collection of real image files: eight two-coloured persons, eight pictures each, three cameras."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn

from reidzoo.data.records import Records, ReIDDataset


@pytest.fixture(scope="session")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Records:
    """64 pictures; row i shows person i % 8 + 1 under camera (i // 8) % 3."""
    folder = tmp_path_factory.mktemp("crops")
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 255, (8, 2, 3))
    paths = []
    for i in range(64):
        pixels = np.repeat(colours[i % 8], 32, axis=0)[:, None] + rng.normal(0, 40, (64, 32, 3))
        paths.append(folder / f"{i:02d}.png")
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(paths[-1])
    return Records.from_columns(paths, np.arange(64) % 8 + 1, np.arange(64) // 8 % 3)


@pytest.fixture
def dataset(crops: Records) -> ReIDDataset:
    rows = np.arange(64)
    parts = (crops.select(index) for index in (rows[:0], rows[:16], rows[16:]))
    return ReIDDataset("crops", Path(crops.path[0]).parent, *parts)


class MeanColours(nn.Module):
    """The mean colour of an 8 x 4 grid: no weights, so that every expected number can be computed by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d((8, 4))
        self.norm = nn.BatchNorm1d(96)
        self.norm.eval()
        self.pretrained_cfg = {"input_size": (3, 64, 32), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}

    def forward(self, x):
        return self.norm(self.pool(x).flatten(1))


@pytest.fixture
def model() -> MeanColours:
    return MeanColours()

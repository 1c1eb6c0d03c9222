from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 12 "people" (coloured noise) with 6 images each from two cameras: enough to run every stage."""
    root = tmp_path_factory.mktemp("people")
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 255, (12, 3))
    for split in ("train", "query", "gallery"):
        for pid in range(12):
            folder = root / split / f"{pid:04d}"
            folder.mkdir(parents=True)
            for i in range(6 if split == "train" else 2):
                noise = rng.integers(-60, 60, (32, 16, 3))
                camera = i % 2 if split != "query" else 2
                image = Image.fromarray(np.clip(colours[pid] + noise, 0, 255).astype(np.uint8))
                image.save(folder / f"{pid:04d}_c{camera + 1}_{i}.jpg")
    return root

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

settings.register_profile("reidzoo", deadline=None)  # the time of a single example says nothing on a busy machine
settings.load_profile("reidzoo")

WriteImage = Callable[..., Path]


@pytest.fixture
def write_image() -> WriteImage:
    """Write a small smooth random image; its content depends on its name."""

    def write(path: Path, size: tuple[int, int] = (64, 32), **save: object) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(list(path.name.encode()))
        small = Image.fromarray(rng.integers(0, 256, (8, 4, 3), dtype=np.uint8))
        small.resize(size[::-1], Image.Resampling.BICUBIC).save(path, **save)
        return path

    return write


@pytest.fixture
def market(tmp_path: Path, write_image: WriteImage) -> Path:
    """A Market-1501 tree: 2 training identities, 2 test identities, junk and a distractor."""
    root = tmp_path / "market"
    for name in (
        "bounding_box_train/0002_c1s1_000451_03.jpg",
        "bounding_box_train/0002_c2s1_000452_01.jpg",
        "bounding_box_train/0007_c10s1_000001_01.jpg",
        "query/0003_c1s1_000001_00.jpg",
        "query/0005_c3s2_000002_00.jpg",
        "bounding_box_test/-1_c1s1_000003_00.jpg",
        "bounding_box_test/0000_c2s1_000004_00.jpg",
        "bounding_box_test/0003_c2s1_000005_00.jpg",
        "bounding_box_test/0005_c6s1_000006_00.jpg",
    ):
        write_image(root / name)
    (root / "bounding_box_train" / "Thumbs.db").write_bytes(b"clutter of the official archive")
    return root

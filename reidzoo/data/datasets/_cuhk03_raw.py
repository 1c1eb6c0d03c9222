"""The images in CUHK03's own file, cuhk-03.mat: an HDF5 file (MATLAB 7.3) of cells of cells of images."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reidzoo._files import settle
from reidzoo._logging import progress
from reidzoo._optional import require
from reidzoo.errors import DataError

_SLOTS = 10  # cells per person: five for each view, some of them empty


def extract_images(file: Path, kind: str, out: Path) -> None:
    """Write the images of ``cuhk-03.mat`` as PNG files named like ``1_001_1_01.png``.

    Args:
        file: the HDF5 file.
        kind: ``"detected"`` or ``"labeled"``.
        out: folder to make; it appears when it is complete.

    Raises:
        DataError: `file` is damaged or something else, or `out` cannot be written.
        MissingExtraError: h5py is not installed.
    """
    partial = out.parent / f".{out.name}.partial-{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        written = _extract(file, kind, partial)
        if not written:
            raise DataError(f"{file} holds no {kind} image. Expected CUHK03's cuhk-03.mat.")
        settle(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _extract(file: Path, kind: str, out: Path) -> int:
    h5py = require("h5py", extra="data", purpose=f"Reading {file.name}")
    written = 0
    try:
        out.mkdir()
        with h5py.File(file, "r") as mat, progress(desc=f"Extracting {kind} images", unit="img") as bar:
            for name, pixels in _images(mat, kind):
                Image.fromarray(pixels).save(out / name)
                written += 1
                bar.update()
    except OSError as e:
        raise DataError(
            f"The {kind} images of {file} cannot be written to {out.parent}: {e}. If the file is damaged, get it "
            f"again; if the folder cannot be written, copy both to one that can."
        ) from e
    except Exception as e:  # damaged files make h5py raise of every kind
        raise DataError(f"{file} is not CUHK03's cuhk-03.mat, or is damaged ({type(e).__name__}: {e}).") from e
    return written


def _images(mat: Any, kind: str) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """(file name, (H, W, 3) uint8) of every image; HDF5 shows MATLAB's arrays transposed."""
    for pair, pair_cell in enumerate(mat[kind][()].reshape(-1), start=1):
        people = mat[pair_cell][()].T  # (persons, slots) references
        for person, slots in enumerate(people, start=1):
            for slot, cell in enumerate(slots[:_SLOTS]):
                pixels = mat[cell][()].T
                if pixels.ndim == 3:  # an empty cell has two numbers, its size
                    yield f"{pair}_{person:03d}_{1 + slot // 5}_{slot + 1:02d}.png", pixels.astype(np.uint8)

"""Market-1501, and every data set in its layout (Zheng et al., Scalable Person Re-identification, ICCV 2015)."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from reidzoo.data.datasets._scan import describe, find_root, is_image, list_folder, report_skipped
from reidzoo.data.records import JUNK, Records, ReIDDataset
from reidzoo.errors import DataError, DataNotFoundError

FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
ALIASES = ("market1501", "Market-1501-v15.09.15", "Market-1501", "Market1501", "Market", "market")
LAYOUT = """\
  <root>/bounding_box_train/0002_c1s1_000451_03.jpg    (person 2, camera 1)
  <root>/query/...
  <root>/bounding_box_test/...                         (-1_c... is junk, 0000_c... a distractor)
Give the folder as market1501:<root>, or set REIDZOO_DATA to the folder above it."""

_NAME = re.compile(r"(-?\d+)_c(\d+)")
_EXPECTED = "file names start with <person>_c<camera>, like 0002_c1s1_000451_03.jpg"


def read_market1501(root: Path, *, name: str = "market1501") -> ReIDDataset:
    """Read a tree in the Market-1501 layout.

    `pid` is the person's number in the file name (-1 junk, 0 distractor), `camid` the camera's number minus 1.

    Args:
        root: the folder with the three splits, its parent, or one of its children.
        name: name of the resulting data set.

    Raises:
        DataNotFoundError: `root` does not have this layout.
        DataError: A split has no image, or a camera is numbered 0.
    """
    root = find_root(root, FOLDERS["train"], ALIASES, LAYOUT)
    return ReIDDataset(name, root, **{split: _read_split(root / folder, split) for split, folder in FOLDERS.items()})


def _read_split(folder: Path, split: str) -> Records:
    if not folder.is_dir():
        raise DataNotFoundError(
            f"The {split} folder {folder} is missing. {describe(folder.parent)} Expected:\n{LAYOUT}"
        )
    files, folders = list_folder(folder)
    names, numbers, skipped = [], [], list(folders)
    for file in files:
        match = _NAME.match(file) if is_image(file) else None
        if match is None:
            skipped.append(file)
        else:
            names.append(file)
            numbers.append((int(match[1]), int(match[2])))
    report_skipped(folder, skipped, _EXPECTED)
    if not names:
        raise DataError(
            f"The {split} folder {folder} has no image that can be used. {describe(folder)} Expected:\n{LAYOUT}"
        )
    pid, camera = np.array(numbers, dtype=np.int64).T
    if (camera == 0).any():
        raise DataError(
            f"{folder / names[int(camera.argmin())]} is of camera 0, but this layout numbers cameras from 1. "
            f"Rename the files, or list them with their cameras in a CSV file and load csv:<file>."
        )
    records = Records.from_columns((f"{folder}/{name}" for name in names), pid, camera - 1)
    if split == "gallery" or (pid >= 0).all():
        return records
    junk = np.flatnonzero(pid < 0)
    report_skipped(folder, [names[i] for i in junk], f"pid {JUNK} is junk, which only a gallery may hold")
    return records.select(pid >= 0)

"""Trees in Market-1501's style: one folder per split, the person and the camera in the file name."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from reidzoo.data.datasets._scan import describe, is_image, list_folder, report_skipped
from reidzoo.data.records import JUNK, Records
from reidzoo.errors import DataError, DataNotFoundError

FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}

_NAME = re.compile(r"(-?\d{1,9})_c(\d{1,9})(?!\d)", re.ASCII)


def read_tree(root: Path, layout: str, example: str) -> dict[str, Records]:
    """Read train, query and gallery.

    `pid` is the person's number in the file name (-1 junk, 0 distractor), `camid` the camera's number minus 1.

    Args:
        root: the folder with the three splits.
        layout: description of the expected tree, for errors.
        example: a file name of this data set, for warnings.

    Raises:
        DataNotFoundError: A split's folder is missing.
        DataError: A split has no image, or a camera is numbered 0.
    """
    return {split: read_split(root / folder, split, layout, example) for split, folder in FOLDERS.items()}


def read_split(folder: Path, split: str, layout: str, example: str) -> Records:
    """Read the folder of one split; only a gallery may hold junk, elsewhere it is left out with a warning.

    Raises:
        DataNotFoundError: `folder` is missing.
        DataError: It has no image, or a camera is numbered 0.
    """
    if not folder.is_dir():
        raise DataNotFoundError(
            f"The {split} folder {folder} is missing. {describe(folder.parent)} Expected:\n{layout}"
        )
    files, folders = list_folder(folder)
    matches = [(file, _NAME.match(file) if is_image(file) else None) for file in files]
    report_skipped(
        folder,
        [*folders, *(file for file, match in matches if match is None)],
        f"file names start with <person>_c<camera>, like {example}",
    )
    names = [file for file, match in matches if match]
    if not names:
        raise DataError(
            f"The {split} folder {folder} has no image that can be used. {describe(folder)} Expected:\n{layout}"
        )
    pid, camera = np.array([(int(m[1]), int(m[2])) for _, m in matches if m], dtype=np.int64).T
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

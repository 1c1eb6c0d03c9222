"""Your own images: one folder per identity, with or without train, query and gallery above them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from reidzoo._logging import get_logger
from reidzoo.data.datasets._reader import Reader
from reidzoo.data.datasets._scan import describe, is_image, list_folder, numeric_pids, report_skipped
from reidzoo.data.records import NO_CAMERA, IntArray, Records, ReIDDataset
from reidzoo.errors import DataError, DataNotFoundError

_logger = get_logger(__name__)

SPLITS = ("train", "query", "gallery")
LAYOUT = """\
  <root>/<person>/<image>.jpg                          (all of it for training)
or
  <root>/train/<person>/<image>.jpg
  <root>/query/<person>/<image>.jpg
  <root>/gallery/<person>/<image>.jpg                  (any of the three may be left out)
A file name may say its camera: anna_c3_0001.jpg. Give the folder as folder:<root>."""

_CAMERA = re.compile(r"_c(\d+)")


def read_folder(root: Path) -> ReIDDataset:
    """Read one folder per identity, in `root` or in its train, query and gallery folders.

    `pid` is the folder's name if all names are integers, else its place in their sorted order, from 1, the same in all
    splits. `camid` is the number after ``_c`` in the file name if every file has one, else -1 (not known) for all.

    Raises:
        DataNotFoundError: `root` is not a folder.
        DataError: A folder that should hold identities holds no image.
    """
    if not root.is_dir():
        raise DataNotFoundError(f"The folder {root} is missing. {describe(root)} Expected:\n{LAYOUT}")
    present = [split for split in SPLITS if (root / split).is_dir()]
    folders = {split: root / split for split in present} if present else {"train": root}
    if present:
        files, others = list_folder(root)
        report_skipped(
            root, [*(o for o in others if o not in SPLITS), *files], "only train, query and gallery are read"
        )
    images = {split: _list_identities(folder) for split, folder in folders.items()}

    pids = numeric_pids((person for rows in images.values() for person, _ in rows), root)
    cameras = _cameras([path for rows in images.values() for _, path in rows])
    records, start = {split: Records.empty() for split in SPLITS}, 0
    for split, rows in images.items():
        stop = start + len(rows)
        records[split] = Records.from_columns((path for _, path in rows), pids[start:stop], cameras[start:stop])
        start = stop
    return ReIDDataset("folder", root, **records)


def _list_identities(folder: Path) -> list[tuple[str, str]]:
    """(identity, path) of every image below `folder`, sorted."""
    files, people = list_folder(folder)
    report_skipped(folder, [f for f in files if is_image(f)], "images belong into one folder per identity")
    rows: list[tuple[str, str]] = []
    for person in people:
        names, deeper = list_folder(folder / person)
        rows += [(person, f"{folder}/{person}/{name}") for name in names if is_image(name)]
        skipped = [*deeper, *(name for name in names if not is_image(name))]
        report_skipped(folder / person, skipped, "an identity's folder holds image files only")
    if not rows:
        raise DataError(f"{folder} holds no folder with images. {describe(folder)} Expected:\n{LAYOUT}")
    return rows


def _cameras(paths: list[str]) -> IntArray:
    """(N,) int64 camera numbers from the file names, or -1 for all if one of them has none."""
    found = [_CAMERA.search(path.rpartition("/")[2]) for path in paths]
    without = [path for path, match in zip(paths, found, strict=True) if match is None]
    if not without:
        return np.array([int(match[1]) for match in found if match], dtype=np.int64)
    if len(without) < len(paths):
        _logger.warning(
            "%d of %d file names carry no camera (_c<number>), for example %s: all cameras count as not known, and "
            "evaluation keeps matches from the query's own camera.", len(without), len(paths), without[0]
        )  # fmt: skip
    return np.full(len(paths), NO_CAMERA, dtype=np.int64)


READER = Reader(
    read_folder,
    about="Your own images: one folder per identity, with or without train, query and gallery above them.",
    layout=LAYOUT,
    needs_path=True,
)

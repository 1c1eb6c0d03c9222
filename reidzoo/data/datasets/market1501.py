"""Market-1501, and every data set in its layout (Zheng et al., Scalable Person Re-identification, ICCV 2015)."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path

import numpy as np

from reidzoo.data.datasets._reader import Counts, Reader
from reidzoo.data.datasets._scan import describe, find_root, is_image, list_folder, report_skipped
from reidzoo.data.datasets._tree import FOLDERS, read_split, read_tree
from reidzoo.data.records import DISTRACTOR, NO_CAMERA, Records, ReIDDataset
from reidzoo.errors import DataError, DataNotFoundError

ALIASES = ("market1501", "Market-1501-v15.09.15", "Market-1501", "Market1501", "Market", "market")
EXAMPLE = "0002_c1s1_000451_03.jpg"
LAYOUT = f"""\
  <root>/bounding_box_train/{EXAMPLE}    (person 2, camera 1)
  <root>/query/...
  <root>/bounding_box_test/...                         (-1_c... is junk, 0000_c... a distractor)
  <root>/gt_bbox/...                                   (where it is there: further images of the queries)
  <root>/images/...                                    (market1501@500k: the additional distractors)
Give the folder as market1501:<root>, or set REIDZOO_DATA to the folder above it."""

_CAMERA = re.compile(r"_c(\d{1,9})(?!\d)", re.ASCII)


def read_market1501(root: Path, variant: str = "standard", *, name: str = "market1501") -> ReIDDataset:
    """Read a tree in the Market-1501 layout.

    `pid` is the person's number in the file name (-1 junk, 0 distractor), `camid` the camera's number minus 1.
    `multi_query` are the images in ``gt_bbox`` of a query's person by the query's camera.

    Args:
        root: the folder with the three splits, its parent, or one of its children.
        variant: ``"standard"``, or ``"500k"``: all of ``images`` are further distractors in the gallery.
        name: name of the resulting data set.

    Raises:
        DataNotFoundError: `root` does not have this layout.
        DataError: A split has no image, or a camera is numbered 0.
    """
    root = find_root(root, FOLDERS["train"], ALIASES, LAYOUT)
    splits = read_tree(root, LAYOUT, EXAMPLE)
    if variant == "500k":
        splits["gallery"] = _with_distractors(splits["gallery"], root / "images")
    return ReIDDataset(name, root, **splits, multi_query=_multi_query(root / "gt_bbox", splits["query"]))


def _multi_query(folder: Path, query: Records) -> Records:
    """The hand-drawn boxes of the queries' persons by the queries' cameras; those of training persons are not used."""
    if not folder.is_dir():
        return Records.empty()
    boxes = read_split(folder, "multi-query", LAYOUT, EXAMPLE)
    wanted = set(zip(query.pid.tolist(), query.camid.tolist(), strict=True))
    return boxes.select([key in wanted for key in zip(boxes.pid.tolist(), boxes.camid.tolist(), strict=True)])


def _with_distractors(gallery: Records, folder: Path) -> Records:
    """Add every image of `folder` as a distractor; a camera that its file name does not say is not known."""
    if not folder.is_dir():
        raise DataNotFoundError(
            f"The folder of additional distractors {folder} is missing. {describe(folder.parent)} "
            f"Move the 500k images there, or leave @500k out. Expected:\n{LAYOUT}"
        )
    files, folders = list_folder(folder)
    names = [file for file in files if is_image(file)]
    report_skipped(folder, [*folders, *(file for file in files if not is_image(file))], "only images are read")
    if not names:
        raise DataError(f"{folder} holds no image. {describe(folder)} Expected:\n{LAYOUT}")
    cameras = [int(match[1]) - 1 if (match := _CAMERA.search(name)) else NO_CAMERA for name in names]
    return Records.from_columns(
        chain(gallery.path, (f"{folder}/{name}" for name in names)),
        np.concatenate([gallery.pid, np.full(len(names), DISTRACTOR)]),
        np.concatenate([gallery.camid, cameras]),
    )


# The junk images of the gallery (3,819) count as images, and its 2,798 distractors as one identity.
_TRAIN, _QUERY, _GALLERY = Counts(12_936, 751, 6), Counts(3_368, 750, 6), Counts(19_732, 751, 6)

READER = Reader(
    read_market1501,
    about="Market-1501, and every data set in its layout (Zheng et al., ICCV 2015).",
    layout=LAYOUT,
    variants=("standard", "500k"),
    published={
        "standard": {"train": _TRAIN, "query": _QUERY, "gallery": _GALLERY},
        "500k": {"train": _TRAIN, "query": _QUERY},  # "over 500,000" distractors: no exact figure
    },
)

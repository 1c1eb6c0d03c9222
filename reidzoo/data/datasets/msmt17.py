"""MSMT17, versions 1 and 2 (Wei et al., Person Transfer GAN to Bridge Domain Gap, CVPR 2018)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from reidzoo.data.datasets._reader import Counts, Reader
from reidzoo.data.datasets._scan import describe, find_root, locate_listed
from reidzoo.data.datasets._tree import FOLDERS, read_tree
from reidzoo.data.records import JUNK, Records, ReIDDataset
from reidzoo.errors import DataError, DataNotFoundError

ALIASES = ("MSMT17", "MSMT17_V1", "MSMT17_V2", "MSMT17-V1", "MSMT17-V2", "msmt17", "msmt17_v1", "msmt17_v2")
LISTS = ("train", "val", "query", "gallery")
IMAGES = (("train", "test"), ("mask_train_v2", "mask_test_v2"))  # of version 1 and 2
LAYOUT = """\
  <root>/list_train.txt, list_val.txt, list_query.txt, list_gallery.txt
         with lines like: 0000/0000_045_12_0303morning_0006_2.jpg 0      (camera 12, person 0)
  <root>/train/0000/..., <root>/test/0000/...                            (version 1)
  <root>/mask_train_v2/0000/..., <root>/mask_test_v2/0000/...            (version 2: faces masked)
or, in Market-1501's style,
  <root>/bounding_box_train/0000_c12_0045.jpg, <root>/query/..., <root>/bounding_box_test/...
Give the folder as msmt17:<root>, or set REIDZOO_DATA to the folder above it."""

_LINE = re.compile(r"(?P<path>.+) (?P<label>\d{1,9})", re.ASCII)
_NAME = re.compile(r"[^_]+_[^_]+_(?P<camera>\d{1,9})(?!\d)", re.ASCII)


class Listed(NamedTuple):
    """One line of a list."""

    path: str  # below the folder of training or of test images
    label: int
    camera: int  # from 1


def read_msmt17(root: Path, variant: str = "trainval") -> ReIDDataset:
    """Read MSMT17 from its four lists, or from a tree in Market-1501's style.

    The lists number the persons of training and of test from 0 each. Here `pid` is that number plus 1 for training,
    and goes on from there for test, so that different people have different pids and none is 0. `camid` is the
    camera's number minus 1.

    Args:
        root: the folder with the lists, its parent, or one of its children.
        variant: ``"trainval"``: the training images are those of both lists (ReIDZoo, TransReID); ``"train"``: those of
            ``list_train.txt`` alone (torchreid, fast-reid, MetaBIN).

    Raises:
        DataNotFoundError: `root` does not have this layout.
        DataError: A list has a line that is not ``<path> <label>``, or a split has no image.
    """
    root = find_root(root, ("list_train.txt", FOLDERS["train"]), ALIASES, LAYOUT)
    if not (root / "list_train.txt").exists():
        return _read_market_style(root, variant)
    lists = {name: _read_list(root / f"list_{name}.txt") for name in LISTS}
    train_folder, test_folder = _image_folders(root)
    train = locate_listed(train_folder, [line.path for line in (*lists["train"], *lists["val"])])
    test = locate_listed(test_folder, [line.path for line in (*lists["query"], *lists["gallery"])])
    after_train = 2 + max(line.label for line in (*lists["train"], *lists["val"]))
    chosen = lists["train"] + (lists["val"] if variant == "trainval" else [])
    splits = {
        "train": _records(chosen, train, 1),
        "query": _records(lists["query"], test, after_train),
        "gallery": _records(lists["gallery"], test, after_train),
    }
    for split, records in splits.items():
        if not len(records):
            folder = train_folder if split == "train" else test_folder
            raise DataError(
                f"None of the {split} images in the lists is below {folder}. {describe(folder)} Expected:\n{LAYOUT}"
            )
    return ReIDDataset("msmt17", root, **splits)


def _image_folders(root: Path) -> tuple[Path, Path]:
    for train, test in IMAGES:
        if (root / train).is_dir() and (root / test).is_dir():
            return root / train, root / test
    raise DataNotFoundError(
        f"{root} has the lists, but neither train/ and test/ nor mask_train_v2/ and mask_test_v2/. {describe(root)} "
        f"Expected:\n{LAYOUT}"
    )


def _read_list(file: Path) -> list[Listed]:
    if not file.is_file():
        raise DataNotFoundError(f"The list {file} is missing. {describe(file.parent)} Expected:\n{LAYOUT}")
    lines = []
    with open(file, encoding="utf-8-sig", errors="surrogateescape") as stream:  # like file names
        for number, text in enumerate(stream, start=1):
            line = _LINE.fullmatch(text.strip())
            name = _NAME.match(line["path"].rpartition("/")[2]) if line else None
            if line and name and int(name["camera"]):
                lines.append(Listed(line["path"], int(line["label"]), int(name["camera"])))
            elif text.strip():
                raise DataError(
                    f"{file}, line {number}: expected an image and its person's number, like "
                    f"'0000/0000_045_12_0303morning_0006_2.jpg 0' for camera 12 (from 1), found {text.strip()[:200]!r}."
                )
    if not lines and file.name != "list_val.txt":
        raise DataError(f"{file} lists no image. Expected:\n{LAYOUT}")
    return lines


def _records(lines: Iterable[Listed], paths: Mapping[str, str], first: int) -> Records:
    rows = [line for line in lines if line.path in paths]
    return Records.from_columns(
        (paths[row.path] for row in rows), [row.label + first for row in rows], [row.camera - 1 for row in rows]
    )


def _read_market_style(root: Path, variant: str) -> ReIDDataset:
    if variant != "trainval":
        raise DataError(
            f"{root} has no list_train.txt, so its training images are train and val together: write msmt17:{root}."
        )
    splits = read_tree(root, LAYOUT, "0000_c12_0045.jpg")
    after_train = 2 + int(splits["train"].pid.max())
    return ReIDDataset(
        "msmt17", root, **{split: _shift(r, 1 if split == "train" else after_train) for split, r in splits.items()}
    )


def _shift(records: Records, first: int) -> Records:
    """Number the persons from `first` instead of from 0."""
    return replace(records, pid=records.pid + first * (records.pid != JUNK))


_TEST = {"query": Counts(11_659, 3_060, 15), "gallery": Counts(82_161, 3_060, 15)}

READER = Reader(
    read_msmt17,
    about="MSMT17, versions 1 and 2 (Wei et al., CVPR 2018).",
    layout=LAYOUT,
    variants=("trainval", "train"),
    published={
        "trainval": {"train": Counts(32_621, 1_041, 15), **_TEST},
        "train": {"train": Counts(30_248, 1_041, 15), **_TEST},
    },
)

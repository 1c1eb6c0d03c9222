"""CUHK-SYSU: people cut out of street and film scenes (Xiao et al., Joint Detection and Identification, CVPR 2017)."""

from __future__ import annotations

import re
from pathlib import Path

from reidzoo.data.datasets import _splits as s
from reidzoo.data.datasets._reader import Counts, Reader
from reidzoo.data.datasets._scan import find_root
from reidzoo.data.records import Records, ReIDDataset

ALIASES = ("CUHK-SYSU", "CUHK_SYSU", "cuhk_sysu", "cuhksysu")
LAYOUT = """\
  <root>/cropped_image/p00001_n01_s00001_hard0.png     (person 1, appearance 1, in scene 1)
Give the folder as cuhk_sysu:<root>, or set REIDZOO_DATA to the folder above it."""

_NAME = re.compile(r"p(\d{1,9})_n\d{1,9}_s(\d{1,9})_hard[01]", re.ASCII)


def read_cuhk_sysu(root: Path) -> ReIDDataset:
    """Read the cropped images of CUHK-SYSU, all for training.

    `pid` is the person's number and `camid` that of the scene (each is a photograph of its own) in the file name.

    Raises:
        DataNotFoundError: `root` has no cropped images.
        DataError: None of them can be used.
    """
    root = find_root(root, "cropped_image", ALIASES, LAYOUT)
    expected = "file names are p<person>_n<appearance>_s<scene>_hard<0 or 1>, like p00001_n01_s00001_hard0.png"
    found = s.scan(root / "cropped_image", _NAME, expected, LAYOUT)
    train = s.to_records(found, lambda match: (int(match[1]), int(match[2])))
    return ReIDDataset("cuhk_sysu", root, train, Records.empty(), Records.empty())


READER = Reader(
    read_cuhk_sysu,
    about="CUHK-SYSU: people cut out of street and film scenes, for training (Xiao et al., CVPR 2017).",
    layout=LAYOUT,
    published={"": {"train": Counts(34_574, 11_934)}},
)

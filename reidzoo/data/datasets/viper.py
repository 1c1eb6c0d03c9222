"""VIPeR: 632 people, each once by each of two cameras (Gray et al., Evaluating Appearance Models, PETS 2007)."""

from __future__ import annotations

import re
from pathlib import Path

from reidzoo.data.datasets import _splits as s
from reidzoo.data.datasets._reader import Counts, Reader
from reidzoo.data.datasets._scan import describe, find_root
from reidzoo.data.records import ReIDDataset
from reidzoo.errors import DataNotFoundError

ALIASES = ("viper", "VIPeR", "VIPER", "VIPeR.v1.0")
LAYOUT = """\
  <root>/cam_a/000_45.bmp                              (person 0, seen at 45 degrees)
  <root>/cam_b/000_90.bmp
  <root>/splits.json                                   (where it is there: the published splits)
or
  <root>/split_1a/{train,query,gallery}/p000_c1_d045.png    (to split_10a)
Give the folder as viper:<root> (split 1) or viper@<split>:<root>, or set REIDZOO_DATA to the folder above it."""

_RAW = re.compile(r"(\d{1,9})_(\d{1,3})", re.ASCII)
_NAME = re.compile(r"p(\d{1,9})_c([12])_d\d{1,3}", re.ASCII)
_SPLIT = "split_{}a"  # b, c and d exchange the halves or the cameras; the published protocol uses a only


def read_viper(root: Path, variant: str = "1") -> ReIDDataset:
    """Read one of the ten splits: camera a shows the queries, camera b the gallery.

    The split comes from the folders ``split_<variant>a``, else from ``splits.json``, else it is `reidzoo`'s own.
    `camid` is 0 for camera a and 1 for camera b.

    Raises:
        DataNotFoundError: `root` does not have this layout.
        DataError: A split has no image, or the split file is damaged.
    """
    folders = [_SPLIT.format(v) for v in s.VARIANTS]
    root = find_root(root, ("cam_a", *folders), ALIASES, LAYOUT)
    if any((root / folder).is_dir() for folder in folders):
        return _read_folders(root, root / _SPLIT.format(variant))
    expected = "file names are <person>_<angle>, like 000_45.bmp"
    rows = [
        (path, (int(match[1]), camera))
        for camera, name in enumerate(("cam_a", "cam_b"))
        for path, match in s.scan(root / name, _RAW, expected, LAYOUT)
    ]
    images = s.to_records(rows, lambda numbers: numbers)
    if source := s.read_split_file(root, variant, ("splits.json",)):
        return s.assemble("viper", root, **{part: s.pick_listed(images, source, part) for part in s.SPLITS})
    images, view = s.keep_pairs(images, images.camid, root)
    train = s.own_half("viper", variant, images.pid.tolist(), root, "splits.json and no folders split_1a to split_10a")
    return s.two_views("viper", root, images, view, train)


def _read_folders(root: Path, folder: Path) -> ReIDDataset:
    if not folder.is_dir():
        raise DataNotFoundError(f"The split folder {folder} is missing. {describe(root)} Expected:\n{LAYOUT}")
    expected = "file names are p<person>_c<camera>_d<angle>, like p000_c1_d045.png"
    splits = {
        part: s.to_records(s.scan(folder / part, _NAME, expected, LAYOUT), lambda m: (int(m[1]), int(m[2]) - 1))
        for part in s.SPLITS
    }
    return s.assemble("viper", root, **splits)


READER = Reader(
    read_viper,
    about="VIPeR: 632 people, each once by each of two cameras, 10 splits (Gray et al., PETS 2007).",
    layout=LAYOUT,
    variants=s.VARIANTS,
    published=s.same_counts(
        {"train": Counts(632, 316, 2), "query": Counts(316, 316, 1), "gallery": Counts(316, 316, 1)}
    ),
)

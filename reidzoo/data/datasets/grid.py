"""GRID: 250 pairs of images and 775 distractors from underground stations (Loy et al., CVPR 2009)."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from reidzoo.data.datasets import _splits as s
from reidzoo.data.datasets._matlab import read_mat
from reidzoo.data.datasets._reader import Counts, Reader
from reidzoo.data.datasets._scan import find_root
from reidzoo.data.records import DISTRACTOR, ReIDDataset
from reidzoo.errors import DataError

ALIASES = ("GRID", "grid", "underground_reid", "QMUL-GRID")
SPLIT_FILES = ("splits.json", "splits_single_shot.json")
MAT_FILE = "features_and_partitions.mat"
LAYOUT = """\
  <root>/probe/0001_1_25004_107_32_106_221.jpeg        (person 1, camera 1)
  <root>/gallery/0001_2_25023_116_134_128_330.jpeg
  <root>/gallery/0000_1_...                            (0000 is a distractor)
  <root>/features_and_partitions.mat or splits.json    (the published splits)
Give the folder as grid:<root> (split 1) or grid@<split>:<root>, or set REIDZOO_DATA to the folder above it."""

_NAME = re.compile(r"(\d{4})_([1-9]\d{0,8})_.+", re.ASCII)


def read_grid(root: Path, variant: str = "1") -> ReIDDataset:
    """Read one of the ten splits: queries from ``probe``, and from ``gallery`` the same persons and all distractors.

    The split comes from ``splits.json`` (or ``splits_single_shot.json``), else from ``features_and_partitions.mat``,
    else it is `reidzoo`'s own. `camid` is the camera's number in the file name minus 1.

    Raises:
        DataNotFoundError: `root` does not have this layout.
        DataError: A split has no image, or the split file is damaged.
    """
    root = find_root(root, "probe", ALIASES, LAYOUT)
    expected = "file names start with <person, four digits>_<camera>_, like 0001_1_25004_107_32_106_221.jpeg"
    folders = [s.scan(root / name, _NAME, expected, LAYOUT) for name in ("probe", "gallery")]
    view = np.repeat(np.arange(2), [len(found) for found in folders])
    images = s.to_records([*folders[0], *folders[1]], lambda match: (int(match[1]), int(match[2]) - 1))
    if source := s.read_split_file(root, variant, SPLIT_FILES):
        return s.assemble("grid", root, **{part: s.pick_listed(images, source, part) for part in s.SPLITS})
    # Distractors are in the gallery only: a probe of nobody would be a query without an answer.
    images, view = s.keep_pairs(images, view, root, strangers=[DISTRACTOR])
    if (root / MAT_FILE).is_file():
        train = _read_mat(root / MAT_FILE, int(variant))
    else:
        pids = images.pid[images.pid != DISTRACTOR].tolist()
        train = s.own_half("grid", variant, pids, root, f"{MAT_FILE} and no {SPLIT_FILES[0]}")
    return s.two_views("grid", root, images, view, train)


def _read_mat(file: Path, trial: int) -> list[int]:
    """Training persons of a trial: the third field of its structure in ``trainIdxAll``."""
    trials = np.asarray(read_mat(file, ["trainIdxAll"]).get("trainIdxAll", ()), dtype=object).reshape(-1)
    try:
        _, _, pids, *_ = trials[trial - 1].values()
        with np.errstate(invalid="ignore"):
            return [int(pid) for pid in np.asarray(pids).reshape(-1).astype(np.int64)]
    except (IndexError, AttributeError, ValueError, TypeError) as e:
        raise DataError(
            f"{file} has no training persons of trial {trial}: expected 'trainIdxAll' to hold 10 structures with them "
            f"in the third field. Get the file again, or put a {SPLIT_FILES[0]} beside it."
        ) from e


READER = Reader(
    read_grid,
    about="GRID: 250 pairs of images and 775 distractors from stations, 10 splits (Loy et al., CVPR 2009).",
    layout=LAYOUT,
    variants=s.VARIANTS,
    # The 775 distractors count as one identity.
    published=s.same_counts({"train": Counts(250, 125), "query": Counts(125, 125), "gallery": Counts(900, 126)}),
)

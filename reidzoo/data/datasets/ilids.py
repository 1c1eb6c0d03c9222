"""QMUL i-LIDS: 476 images of 119 people in an airport hall (Zheng et al., Associating Groups of People, BMVC 2009)."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from reidzoo._logging import get_logger
from reidzoo.data.datasets import _splits as s
from reidzoo.data.datasets._reader import Counts, Reader
from reidzoo.data.datasets._scan import find_root, report_skipped
from reidzoo.data.records import NO_CAMERA, Records, ReIDDataset

_logger = get_logger(__name__)

ALIASES = ("QMUL-iLIDS", "QMUL_iLIDS", "ilids", "i-LIDS_Pedestrian", "ilids/i-LIDS_Pedestrian")
SPLIT_FILES = ("splits.json", "splits_single_shot.json")
FOLDERS = ("images", "Persons")
LAYOUT = """\
  <root>/images/0001002.jpg                            (person 1, image 2); the folder may be called Persons
  <root>/splits.json                                   (where it is there: the published splits)
Give the folder as ilids:<root> (split 1) or ilids@<split>:<root>, or set REIDZOO_DATA to the folder above it."""

_PUBLISHED = (476, 119)  # images and people in all; the images to train on differ between splits
_NAME = re.compile(r"(\d{4})(\d{3})\d*", re.ASCII)


def read_ilids(root: Path, variant: str = "1") -> ReIDDataset:
    """Read one of the ten splits: one image of each test person is the query, another one the gallery.

    The split comes from ``splits.json``, else it is `reidzoo`'s own. File names do not say the camera: `camid` is -1
    (not known), and no match is left out of evaluation. (Loaders that take the image number for the camera leave none
    out either.)

    Raises:
        DataNotFoundError: `root` does not have this layout.
        DataError: A split has no image, or the split file is damaged.
    """
    root = find_root(root, FOLDERS, ALIASES, LAYOUT)
    folder = next(root / name for name in FOLDERS if (root / name).is_dir() or name == FOLDERS[-1])
    found = s.scan(
        folder, _NAME, "file names are 7 digits, 4 of the person and 3 of the image, like 0001002.jpg", LAYOUT
    )
    images = s.to_records(found, lambda match: (int(match[1]), NO_CAMERA))
    if (have := (len(images), images.num_pids)) != _PUBLISHED and not (root / "synthetic.json").exists():
        _logger.warning("%s holds %d images of %d people; published are %d of %d.", root, *have, *_PUBLISHED)
    if source := s.read_split_file(root, variant, SPLIT_FILES):
        return s.assemble("ilids", root, **{part: s.pick_listed(images, source, part) for part in s.SPLITS})
    return _own_split(root, variant, images)


def _own_split(root: Path, variant: str, images: Records) -> ReIDDataset:
    pids = np.unique(images.pid).tolist()
    train = s.own_half("ilids", variant, pids, root, SPLIT_FILES[0])
    query, gallery, alone = [], [], []
    for pid in sorted(set(pids) - set(train)):
        rows = np.flatnonzero(images.pid == pid).tolist()
        stems = {Path(images.path[row]).stem: row for row in rows}
        first, *others = s.own_order("ilids", variant, stems)
        if others:
            query.append(stems[first])
            gallery.append(stems[others[0]])
        else:
            alone.append(first)
    report_skipped(root, alone, "a test person needs two images")
    return s.assemble(
        "ilids",
        root,
        train=images.select(np.isin(images.pid, train)),
        query=images.select(query),
        gallery=images.select(gallery),
    )


READER = Reader(
    read_ilids,
    about="QMUL i-LIDS: 476 images of 119 people in an airport hall, 10 splits (Zheng et al., BMVC 2009).",
    layout=LAYOUT,
    variants=s.VARIANTS,
    published=s.same_counts({"query": Counts(60, 60, 0), "gallery": Counts(60, 60, 0)}),
)

"""DG-Market: people generated from Market-1501's (Zheng et al., DG-Net, CVPR 2019); images for training only."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from reidzoo.data.datasets._reader import Counts, Reader
from reidzoo.data.datasets._scan import describe, is_image, list_folder, numeric_pids, report_skipped
from reidzoo.data.records import NO_CAMERA, Records, ReIDDataset
from reidzoo.errors import DataError, DataNotFoundError

ALIASES = ("DG-Market", "DGMarket", "dg-market", "dgmarket", "DG_Market")
LAYOUT = """\
  <root>/<class>/<image>.jpg                           (all of it for training)
Give the folder as dgmarket:<root>, or set REIDZOO_DATA to the folder above it."""


def read_dgmarket(root: Path) -> ReIDDataset:
    """Read DG-Market: one folder per pseudo identity, which is the `pid`.

    A generated image has the pose of one camera and the clothes of another: `camid` is -1, whatever its name says.

    Args:
        root: the folder with one folder per class, or its parent.

    Raises:
        DataNotFoundError: `root` is not a folder.
        DataError: It holds no folder with images.
    """
    root = next((root / name for name in ALIASES if (root / name).is_dir()), root)
    if not root.is_dir():
        raise DataNotFoundError(f"The folder {root} is missing. {describe(root)} Expected:\n{LAYOUT}")
    loose, classes = list_folder(root)
    skipped = [name for name in loose if is_image(name)]
    rows: list[tuple[str, str]] = []
    for name in classes:
        files, deeper = list_folder(root / name)
        rows += [(name, f"{root}/{name}/{file}") for file in files if is_image(file)]
        skipped += [f"{name}/{entry}" for entry in (*deeper, *files) if entry in deeper or not is_image(entry)]
    if not rows:
        raise DataError(f"{root} holds no folder with images. {describe(root)} Expected:\n{LAYOUT}")
    report_skipped(root, skipped, "only images in one folder per class are read")
    pid = numeric_pids((name for name, _ in rows), root)
    train = Records.from_columns((path for _, path in rows), pid, np.full(len(rows), NO_CAMERA))
    return ReIDDataset("dgmarket", root, train=train, query=Records.empty(), gallery=Records.empty())


READER = Reader(
    read_dgmarket,
    about="DG-Market: images generated from Market-1501's people, for training (Zheng et al., CVPR 2019).",
    layout=LAYOUT,
    published={"": {"train": Counts(128_307)}},
)

"""CUHK03 (Li et al., DeepReID, CVPR 2014) in the new protocol (Zhong et al., Re-ranking, CVPR 2017)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reidzoo.data.datasets._cuhk03_raw import extract_images
from reidzoo.data.datasets._matlab import read_mat
from reidzoo.data.datasets._reader import Counts, Reader
from reidzoo.data.datasets._scan import describe, find_root, locate_listed
from reidzoo.data.datasets._tree import FOLDERS, read_tree
from reidzoo.data.records import IntArray, Records, ReIDDataset
from reidzoo.errors import DataError, DataNotFoundError

ALIASES = ("cuhk03", "CUHK03", "cuhk03_np", "CUHK03-NP", "cuhk03-np", "CUHK03_NP", "cuhk03_release")
VARIANTS = ("detected", "labeled")
SPLITS = ("train", "query", "gallery")
RAW = ("cuhk03_release/cuhk-03.mat", "cuhk-03.mat")
LAYOUT = """\
  <root>/detected/bounding_box_train/0001_c1_1.png     (person 1, view 1), and the same below <root>/labeled/
  <root>/detected/query/..., <root>/detected/bounding_box_test/...
or
  <root>/cuhk03_new_protocol_config_detected.mat       (or ..._labeled.mat for cuhk03@labeled)
  <root>/images_detected/1_001_1_01.png                (camera pair, person of the pair, view, number)
  or <root>/cuhk03_release/cuhk-03.mat, from which the images are written to images_detected once
Give the folder as cuhk03:<root> or cuhk03@labeled:<root>, or set REIDZOO_DATA to the folder above it."""

_NAME = re.compile(r"[1-5]_\d{3}_(?P<view>[12])_\d{2}", re.ASCII)


def read_cuhk03(root: Path, variant: str = "detected") -> ReIDDataset:
    """Read CUHK03 in the new protocol: 767 persons for training, 700 for test.

    `pid` is the protocol's number of the person, from 1; `camid` is 0 for the first view of a camera pair and 1 for
    the second.

    Args:
        root: the folder of one of the layouts, its parent, or one of its children.
        variant: ``"detected"``: boxes of a detector; ``"labeled"``: drawn by hand.

    Raises:
        DataNotFoundError: `root` has none of the layouts.
        DataError: The protocol's file is damaged, contradicts itself, or a split has no image.
        MissingExtraError: The images are still in ``cuhk-03.mat``, and h5py, which reads it, is not installed.
    """
    if root.name in VARIANTS and root.name != variant:
        raise DataError(f"{root} holds the {root.name} boxes. Write it as cuhk03@{root.name}:{root}.")
    config = f"cuhk03_new_protocol_config_{variant}.mat"
    root = find_root(root, (config, f"{variant}/{FOLDERS['train']}"), ALIASES, LAYOUT)
    if not (root / config).exists():
        return ReIDDataset("cuhk03", root, **read_tree(root / variant, LAYOUT, "0001_c1_1.png"))
    return ReIDDataset("cuhk03", root, **_read_protocol(root / config, _images_folder(root, variant)))


def _images_folder(root: Path, variant: str) -> Path:
    folder = root / f"images_{variant}"
    raw = next((root / name for name in RAW if (root / name).is_file()), None)
    if not folder.is_dir():
        if raw is None:
            raise DataNotFoundError(
                f"{root} has the protocol, but neither {folder.name}/ nor {' or '.join(RAW)} to write it from. "
                f"{describe(root)} Expected:\n{LAYOUT}"
            )
        extract_images(raw, variant, folder)
    return folder


def _read_protocol(file: Path, images: Path) -> dict[str, Records]:
    names, pid, camid, index = _load_protocol(file)
    found = locate_listed(images, names)
    there = np.array([name in found for name in names])
    splits = {}
    for split in SPLITS:
        rows = index[split][there[index[split]]]
        if not len(rows):
            raise DataError(
                f"{images} has none of the {split} images of {file}. {describe(images)} Expected:\n{LAYOUT}"
            )
        splits[split] = Records.from_columns((found[names[i]] for i in rows), pid[rows], camid[rows])
    return splits


def _load_protocol(file: Path) -> tuple[list[str], IntArray, IntArray, dict[str, IntArray]]:
    """Names, pids and camids of all images, and the positions of each split's, sorted."""
    variables = ("filelist", "labels", "camId", *(f"{split}_idx" for split in SPLITS))
    mat = read_mat(file, variables)
    missing = [name for name in variables if name not in mat]
    if missing:
        raise DataError(f"{file} has no {', '.join(missing)}: it is not the new protocol's file.")
    names = [str(name) for name in np.ravel(mat["filelist"])]
    pid, camera = _integers(file, mat, "labels"), _integers(file, mat, "camId")
    index = {split: np.sort(_integers(file, mat, f"{split}_idx")) - 1 for split in SPLITS}  # MATLAB counts from 1
    used = np.concatenate(list(index.values()))
    matches = [_NAME.match(name) for name in names]
    for wrong, what in (
        (len({len(names), len(pid), len(camera)}) > 1, "filelist, labels and camId differ in length"),
        (used.size and (used.min() < 0 or used.max() >= len(names)), "an index is not from 1 to the number of images"),
        (len(np.unique(used)) < len(used), "an image is in a split twice, or in two"),
        (not all(matches), "a name is not like 1_001_1_01.png"),
        ([int(m["view"]) for m in matches if m] != camera.tolist(), "camId differs from the view in a name"),
        (pid.size and pid.min() < 1, "a label is below 1"),
    ):
        if wrong:
            raise DataError(f"{file} contradicts itself: {what}. Get the file again.")
    return names, pid, camera - 1, index


def _integers(file: Path, mat: dict[str, Any], name: str) -> IntArray:
    values: NDArray[Any] = np.asarray(mat[name])
    listed = values.size in (0, max(values.shape, default=1)) and values.dtype.kind in "iuf"
    if not listed or (values != np.floor(values)).any() or (np.abs(values) > 1e9).any():
        raise DataError(f"{file}: {name} is no list of integers (shape {values.shape}, dtype {values.dtype}).")
    return values.reshape(-1).astype(np.int64)


def _published(train: int, gallery: int) -> dict[str, Counts]:
    return {"train": Counts(train, 767, 2), "query": Counts(1_400, 700, 2), "gallery": Counts(gallery, 700, 2)}


READER = Reader(
    read_cuhk03,
    about="CUHK03 in the new protocol (Li et al., CVPR 2014; Zhong et al., CVPR 2017).",
    layout=LAYOUT,
    variants=VARIANTS,
    published={"detected": _published(7_365, 5_332), "labeled": _published(7_368, 5_328)},
)

"""Layouts of the data sets of camera networks, with their lists and protocol files."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from reidzoo._optional import require
from reidzoo.data._layouts import LAYOUTS, Layout, Shot

_FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}


def _write_gt_bbox(root: Path, shots: Sequence[Shot]) -> None:
    """The boxes drawn by hand: all images of labelled people, of training and of test."""
    (root / "gt_bbox").mkdir()
    for shot in shots:
        if shot.role == "person":
            path = root / str(LAYOUTS["market1501"].path(shot))
            shutil.copyfile(path, root / "gt_bbox" / path.name)


def _duke(shot: Shot) -> str | None:
    frame = 1_000_000 * shot.sequence + shot.frame
    return f"{_FOLDERS[shot.split]}/{shot.pid:04d}_c{shot.camid + 1}_f{frame:07d}.jpg" if shot.pid > 0 else None


_DAYTIMES = ("morning", "noon", "afternoon")


def _msmt(folders: tuple[str, str], shot: Shot) -> str | None:
    """Like ``train/0000/0000_045_12_0303morning_0006_2.jpg``, some with ``_ex`` at the end."""
    if shot.pid <= 0:
        return None
    time = f"{303 + shot.sequence // 3:04d}{_DAYTIMES[shot.sequence % 3]}"
    name = f"{shot.pid:04d}_{shot.number:03d}_{shot.camid + 1:02d}_{time}_{shot.frame:04d}_{shot.step}"
    ending = "_ex" if shot.number % 7 == 3 else ""
    return f"{folders[shot.split != 'train']}/{shot.pid:04d}/{name}{ending}.jpg"


def _write_msmt_lists(folders: tuple[str, str], root: Path, shots: Sequence[Shot]) -> None:
    """Training and test people are numbered from 0 each; val is the last image of each training person."""
    lines: dict[str, list[str]] = {"train": [], "val": [], "query": [], "gallery": []}
    for training in (True, False):
        of_part = [shot for shot in shots if (shot.split == "train") == training]
        label = {pid: i for i, pid in enumerate(sorted({shot.pid for shot in of_part}))}
        last = {shot.pid: shot for shot in of_part}
        for shot in of_part:
            path = PurePosixPath(str(_msmt(folders, shot)))
            held_out = training and shot is last[shot.pid]
            lines["val" if held_out else shot.split].append(f"{path.relative_to(path.parts[0])} {label[shot.pid]}\n")
    for name, text in lines.items():
        (root / f"list_{name}.txt").write_text("".join(text), encoding="utf-8")


def _cuhk03_name(shot: Shot) -> str:
    """Like ``1_003_1_02.png``: camera pair, person of the pair, view, number (the second view's go on from 6)."""
    pair, person = shot.person % 5 + 1, shot.person // 5 + 1
    return f"{pair}_{person:03d}_{shot.camid + 1}_{5 * shot.camid + shot.number + 1:02d}.png"


def _cuhk03(shot: Shot) -> str | None:
    return f"images_detected/{_cuhk03_name(shot)}" if shot.pid > 0 else None


def _write_cuhk03_protocol(root: Path, shots: Sequence[Shot]) -> None:
    """Two kinds of boxes, here with the same images, and the protocol of each."""
    io = require("scipy.io", extra="data", purpose="Writing CUHK03's protocol (.mat)")
    shutil.copytree(root / "images_detected", root / "images_labeled")
    shots = sorted(shots, key=_cuhk03_name)
    protocol = {
        "filelist": np.array([[_cuhk03_name(shot)] for shot in shots], dtype=object),
        "labels": np.array([[shot.pid] for shot in shots], dtype=np.float64),
        "camId": np.array([[shot.camid + 1] for shot in shots], dtype=np.float64),
    }
    for split in _FOLDERS:
        rows = [[i] for i, shot in enumerate(shots, start=1) if shot.split == split]
        protocol[f"{split}_idx"] = np.array(rows, dtype=np.float64)
    for kind in ("detected", "labeled"):
        io.savemat(root / f"cuhk03_new_protocol_config_{kind}.mat", protocol)


def _cuhk03_np(shot: Shot) -> str | None:
    name = f"{shot.pid:04d}_c{shot.camid + 1}_{5 * shot.camid + shot.number + 1}.png"
    return f"detected/{_FOLDERS[shot.split]}/{name}" if shot.pid > 0 else None


def _copy_labeled(root: Path, _: Sequence[Shot]) -> None:
    shutil.copytree(root / "detected", root / "labeled")


def _dgmarket(shot: Shot) -> str:
    return (
        f"{shot.pid:04d}/{shot.pid:04d}_c{shot.camid + 1}s{shot.sequence + 1}_{shot.frame:06d}_{shot.step + 1:02d}.jpg"
    )


LAYOUTS["market1501_gt_bbox"] = replace(LAYOUTS["market1501"], finish=_write_gt_bbox, reader="market1501")
LAYOUTS["dukemtmc"] = Layout(_duke, has_test=True, max_cameras=99)
for _name, _images in (("msmt17", ("train", "test")), ("msmt17_v2", ("mask_train_v2", "mask_test_v2"))):
    LAYOUTS[_name] = Layout(
        partial(_msmt, _images),
        has_test=True,
        max_cameras=99,
        finish=partial(_write_msmt_lists, _images),
        reader="msmt17",
    )
LAYOUTS["cuhk03"] = Layout(_cuhk03, has_test=True, max_cameras=2, cameras=2, finish=_write_cuhk03_protocol)
LAYOUTS["cuhk03_np"] = Layout(
    _cuhk03_np, has_test=True, max_cameras=2, cameras=2, finish=_copy_labeled, reader="cuhk03"
)
LAYOUTS["dgmarket"] = Layout(_dgmarket, has_test=False, max_cameras=99)

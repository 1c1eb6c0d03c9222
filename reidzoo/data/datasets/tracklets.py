"""What a tracker wrote: one folder per video, in it one per tracklet."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from reidzoo.data.datasets._reader import Reader
from reidzoo.data.datasets._scan import describe, is_image, list_folder, report_skipped
from reidzoo.data.records import NO_CAMERA, Records, ReIDDataset
from reidzoo.errors import DataNotFoundError

LAYOUT = """\
  <root>/<video>/<tracklet>/000340.jpg        (any names; their sorted order is that of the videos, tracklets, frames)
Give the folder as tracklets:<root>."""


def read_tracklets(root: Path) -> ReIDDataset:
    """Read images in folders video/tracklet; all are for training.

    `pid` is the tracklet's number in the sorted order of videos and tracklets: a person has many. It is also the extra
    `tracklet`, beside `video`. Cameras are not known.

    Raises:
        DataNotFoundError: There are no images in folders of this depth.
    """
    paths: list[str] = []
    video: list[int] = []
    images: list[int] = []
    left: list[tuple[Path, list[str]]] = []
    for number, name in enumerate(list_folder(root)[1] if root.is_dir() else []):
        strays, tracklets = list_folder(root / name)
        left.append((root / name, [stray for stray in strays if is_image(stray)]))
        for tracklet in tracklets:
            folder = root / name / tracklet
            files, deeper = list_folder(folder)
            found = [file for file in files if is_image(file)]
            left.append((folder, [*deeper, *(file for file in files if not is_image(file))]))
            paths += [f"{folder}/{file}" for file in found]
            if found:
                video.append(number)
                images.append(len(found))
    if not paths:
        raise DataNotFoundError(
            f"{root} has no images in folders <video>/<tracklet>. {describe(root)} Expected:\n{LAYOUT}\n"
            f"If the folders are LUPerson-NL's <country>/<city>/<video>, say luperson_nl:{root}"
        )
    for folder, skipped in left:
        report_skipped(folder, skipped, "images are in folders <video>/<tracklet>")
    tracklet_of = np.repeat(np.arange(len(images)), images)
    train = Records.from_columns(
        paths,
        tracklet_of,
        np.full(len(paths), NO_CAMERA),
        video=np.repeat(np.array(video, np.int64), images),
        tracklet=tracklet_of,
    )
    return ReIDDataset("tracklets", root, train, Records.empty(), Records.empty())


READER = Reader(
    read_tracklets,
    about="A tracker's output: one folder per video, in it one folder per tracklet.",
    layout=LAYOUT,
    needs_path=True,
)

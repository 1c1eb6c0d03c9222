"""LUPerson-NL: pedestrians in web videos, with the noisy identities of a tracker (Fu et al., CVPR 2022)."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from reidzoo.data.datasets._reader import Counts, Reader
from reidzoo.data.datasets._videos import read_videos
from reidzoo.data.records import Records, ReIDDataset

ALIASES = ("LUPerson-NL", "LUPerson_NL", "LUPersonNL", "luperson_nl", "luperson-nl")
LAYOUT = """\
  <root>/<country>/<city>/<video>/000012_0000340_01.jpg        (<tracklet>_<frame>_<object>)
Give the folder as luperson_nl:<root>, or set REIDZOO_DATA to the folder above it."""

_NAME = re.compile(r"(?P<pid>\d{1,18})_(?P<frame>\d{1,18})_\d+\.(?:jpg|jpeg|png)", re.IGNORECASE | re.ASCII)
_EXPECTED = "images are <country>/<city>/<video>/<tracklet>_<frame>_<object>.jpg, like 000012_0000340_01.jpg"


def read_luperson_nl(root: Path) -> ReIDDataset:
    """Read LUPerson-NL as released; all images are for training.

    `pid` is the number that the tracker gave: one of many for the same person. It is also the extra `tracklet`, beside
    `video` (the video folders in their sorted order) and `frame`. Cameras are not known. The first time, the folders
    are listed into an index (`reidzoo.data._index`).

    Args:
        root: The folder with the countries, or its parent.

    Raises:
        DataNotFoundError: There are no images in folders country/city/video.
    """
    root, records = read_videos("luperson_nl-1", root, ALIASES, _NAME, _EXPECTED, LAYOUT)
    extras = {name: records.extras[name] for name in ("video", "frame")}
    train = replace(records, extras={"video": extras["video"], "tracklet": records.pid, "frame": extras["frame"]})
    return ReIDDataset("luperson_nl", root, train, Records.empty(), Records.empty())


READER = Reader(
    read_luperson_nl,
    about="LUPerson-NL: pedestrians in web videos, with a tracker's identities (Fu et al., CVPR 2022).",
    layout=LAYOUT,
    published={"": {"train": Counts(10_683_716, 433_997)}},
)

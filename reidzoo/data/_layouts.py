"""How data sets of each layout keep their images: the synthetic people can be written in any of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


class Shot(NamedTuple):
    """One image to draw."""

    person: int  # who is drawn, also where the label hides it
    pid: int  # the label: 0 for distractors, -1 for junk
    camid: int
    sequence: int  # video of this camera
    tracklet: int  # of the whole data set
    step: int  # position in the tracklet
    frame: int  # of the video
    split: str  # train, query or gallery
    role: str  # person, distractor or junk
    number: int = 0  # of this person's images by this camera, from 0


@dataclass(frozen=True)
class Layout:
    """How a data set of some name keeps its images."""

    path: Callable[[Shot], str | None]  # relative to the root; None: the layout has no place for this image
    has_test: bool  # a query and a gallery beside the training images
    max_cameras: int  # that its file names can tell apart
    finish: Callable[[Path, Sequence[Shot]], None] | None = None  # writes lists and annotations, given the shots kept
    arrange: Callable[[Sequence[Shot]], Sequence[Shot]] | None = None  # chooses and relabels what was planned
    cameras: int | None = None  # how many there are, where the layout fixes it
    reader: str = ""  # data set name under which it is read, where that is another


_MARKET_FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}


def _market_name(shot: Shot) -> str:
    pid = "-1" if shot.pid < 0 else f"{shot.pid:04d}"
    return f"{pid}_c{shot.camid + 1}s{shot.sequence + 1}_{shot.frame:06d}_{shot.step + 1:02d}.jpg"


LAYOUTS: dict[str, Layout] = {
    "market1501": Layout(
        lambda shot: f"{_MARKET_FOLDERS[shot.split]}/{_market_name(shot)}", has_test=True, max_cameras=9
    ),
    "folder": Layout(lambda shot: f"{shot.pid:04d}/{_market_name(shot)}", has_test=False, max_cameras=99),
}

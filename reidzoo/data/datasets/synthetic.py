"""The synthetic people that `reidzoo.data.write_synthetic` draws, with the videos and tracklets they come from."""

from __future__ import annotations

import csv
import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from reidzoo.data.datasets._reader import Reader
from reidzoo.data.datasets._scan import find_root
from reidzoo.data.datasets.market1501 import read_market1501
from reidzoo.data.records import Records, ReIDDataset
from reidzoo.errors import DataError

SIDECAR = "synthetic.csv"
LAYOUT = """\
  <root>/synthetic.csv and the folders of the Market-1501 layout.
Write it with: reidzoo data synth <root>, and give the folder as synthetic:<root>."""


def read_synthetic(root: Path) -> ReIDDataset:
    """Read a synthetic data set in the Market-1501 layout; ``extras`` hold each image's `video` and `tracklet`.

    Raises:
        DataNotFoundError: `root` holds no synthetic data set.
        DataError: An image is not listed in ``synthetic.csv``.
    """
    root = find_root(root, SIDECAR, ("synthetic",), LAYOUT)
    try:
        with open(root / SIDECAR, encoding="utf-8", newline="") as stream:
            truth = {row["path"]: (int(row["video"]), int(row["tracklet"])) for row in csv.DictReader(stream)}
    except (KeyError, TypeError, ValueError, OverflowError, csv.Error) as e:
        raise DataError(
            f"{root / SIDECAR} is damaged ({type(e).__name__}: {e}). Write the data set again into an empty folder."
        ) from None
    data = read_market1501(root, name="synthetic")
    return replace(
        data,
        train=_attach(data.train, root, truth),
        query=_attach(data.query, root, truth),
        gallery=_attach(data.gallery, root, truth),
    )


def _attach(records: Records, root: Path, truth: dict[str, tuple[int, int]]) -> Records:
    names = [os.path.relpath(path, root).replace(os.sep, "/") for path in records.path]
    unlisted = [name for name in names if name not in truth]
    if unlisted:
        raise DataError(
            f"{len(unlisted)} images below {root} are not listed in {SIDECAR}, for example {unlisted[0]}. Files were "
            f"added by hand or the writer was interrupted: write the data set again into an empty folder."
        )
    video, tracklet = np.array([truth[name] for name in names], dtype=np.int64).T
    return replace(records, extras={"video": video, "tracklet": tracklet})


READER = Reader(
    read_synthetic,
    about="The drawn people of `reidzoo data synth`, with the videos and tracklets they come from.",
    layout=LAYOUT,
)

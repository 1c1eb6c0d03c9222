"""PRID-2011, single-shot: 200 people by both of two cameras, and more by one (Hirzer et al., SCIA 2011)."""

from __future__ import annotations

import re
from pathlib import Path

from reidzoo.data.datasets import _splits as s
from reidzoo.data.datasets._reader import Counts, Reader
from reidzoo.data.datasets._scan import find_root
from reidzoo.data.records import DISTRACTOR, ReIDDataset
from reidzoo.errors import DataError

ALIASES = ("prid_2011", "prid2011", "PRID2011", "PRID-2011", "prid")
SPLIT_FILES = ("splits_single_shot.json", "splits.json")
LAYOUT = """\
  <root>/single_shot/cam_a/person_0001.png
  <root>/single_shot/cam_b/person_0001.png
  <root>/splits_single_shot.json                       (where it is there: the published splits)
Give the folder as prid:<root> (split 1) or prid@<split>:<root>, or set REIDZOO_DATA to the folder above it."""

_NAME = re.compile(r"person_(\d{1,9})", re.ASCII)
_SHARED = 200  # numbers above are of other people in camera a than in camera b


def read_prid(root: Path, variant: str = "1") -> ReIDDataset:
    """Read one of the ten splits of the persons 1 to 200: camera a shows the queries, camera b the gallery.

    Persons above 200 of camera b are distractors (pid 0) of the gallery; those of camera a are not used. The split
    comes from ``splits_single_shot.json``, else it is `reidzoo`'s own. `camid` is 0 for camera a and 1 for camera b.

    Raises:
        DataNotFoundError: `root` does not have this layout.
        DataError: A split has no image, or the split file is damaged.
    """
    # Given single_shot/cam_a, the root is two above.
    above = root.parent if root.name in ("cam_a", "cam_b") else root
    root = find_root(above, ("single_shot/cam_a", "single_shot"), ALIASES, LAYOUT)
    expected = "file names are person_<number>, like person_0001.png"
    rows = [
        (path, (pid if (pid := int(match[1])) <= _SHARED else DISTRACTOR, camera))
        for camera, name in enumerate(("cam_a", "cam_b"))
        for path, match in s.scan(root / "single_shot" / name, _NAME, expected, LAYOUT)
        if camera == 1 or int(match[1]) <= _SHARED
    ]
    images = s.to_records(rows, lambda numbers: numbers)
    images, view = s.keep_pairs(images, images.camid, root, strangers=[DISTRACTOR])
    if source := s.read_split_file(root, variant, SPLIT_FILES):
        train, test = _persons(source, "train"), _persons(source, "test")
        strangers = [DISTRACTOR] if (images.pid == DISTRACTOR).any() else []
        return s.two_views("prid", root, images, view, train, [*test, *strangers])
    pids = images.pid[images.pid != DISTRACTOR]
    return s.two_views("prid", root, images, view, s.own_half("prid", variant, pids.tolist(), root, SPLIT_FILES[0]))


def _persons(source: tuple[Path, dict[str, object]], part: str) -> list[int]:
    names = s.listed(source, part)
    wrong = [name for name in names if not re.fullmatch(r"(person_)?\d{1,9}", name)]
    if wrong:
        raise DataError(f"{source[0]}: {part!r} lists {wrong[0]!r}; expected persons' numbers, from 1 to {_SHARED}.")
    return [int(name.removeprefix("person_")) for name in names]


READER = Reader(
    read_prid,
    about="PRID-2011, single-shot: 200 people by two cameras, 549 distractors, 10 splits (Hirzer et al., SCIA 2011).",
    layout=LAYOUT,
    variants=s.VARIANTS,
    # The 549 distractors count as one identity.
    published=s.same_counts(
        {"train": Counts(200, 100, 2), "query": Counts(100, 100, 1), "gallery": Counts(649, 101, 1)}
    ),
)

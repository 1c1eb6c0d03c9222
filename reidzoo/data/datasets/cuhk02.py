"""CUHK02: 1,816 people by five pairs of cameras (Li and Wang, CVPR 2013); images for training only."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

from reidzoo._logging import get_logger
from reidzoo.data.datasets import _splits as s
from reidzoo.data.datasets._reader import Counts, Reader
from reidzoo.data.datasets._scan import find_root, list_folder, report_skipped
from reidzoo.data.records import Records, ReIDDataset

_logger = get_logger(__name__)

ALIASES = ("cuhk02", "CUHK02", "CUHK02/Dataset", "Dataset")
PAIR = 10_000
"""Person n of the pair of cameras p has the pid p * PAIR + n, as the pairs number their people each from 1."""
LAYOUT = """\
  <root>/P1/cam1/001_0001.png                          (P1 to P5: the pairs of cameras; person 1)
  <root>/P1/cam2/001_0003.png
Give the folder as cuhk02:<root>, or set REIDZOO_DATA to the folder above it."""

_NAME = re.compile(r"(\d{1,4})_.+", re.ASCII)
_PAIRS = tuple(f"P{pair}" for pair in range(1, 6))


def read_cuhk02(root: Path) -> ReIDDataset:
    """Read CUHK02, all for training.

    `pid` is the number of the pair of cameras times 10,000 plus the person's number in it; `camid` is 0 and 1 for the
    cameras of P1, 2 and 3 for those of P2, and so on.

    Raises:
        DataNotFoundError: `root` does not have this layout.
        DataError: A camera's folder has no image.
    """
    root = find_root(root, _PAIRS, ALIASES, LAYOUT)
    pairs = [name for name in _PAIRS if (root / name).is_dir()]
    if len(pairs) < len(_PAIRS):
        _logger.warning("%s holds %s only; CUHK02 has %s to %s.", root, ", ".join(pairs), _PAIRS[0], _PAIRS[-1])
    report_skipped(root, [name for name in list_folder(root)[1] if name not in _PAIRS], "only P1 to P5 are read")
    rows: list[tuple[str, tuple[int, int]]] = []
    for name, view in product(pairs, (1, 2)):
        expected = "file names start with <person>_, like 001_0001.png"
        found = s.scan(root / name / f"cam{view}", _NAME, expected, LAYOUT)
        pair = int(name[1:])
        camera = 2 * (pair - 1) + view - 1
        rows += [(path, (pair * PAIR + int(match[1]), camera)) for path, match in found]
    train = s.to_records(rows, lambda numbers: numbers)
    return ReIDDataset("cuhk02", root, train, Records.empty(), Records.empty())


READER = Reader(
    read_cuhk02,
    about="CUHK02: 1,816 people by five pairs of cameras, for training (Li and Wang, CVPR 2013).",
    layout=LAYOUT,
    published={"": {"train": Counts(7_264, 1_816, 10)}},
)

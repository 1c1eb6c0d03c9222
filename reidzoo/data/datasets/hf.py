"""Image data sets in the format of the Hugging Face hub, kept as image files on this machine."""

from __future__ import annotations

import csv
import re
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from reidzoo import _env
from reidzoo._files import settle
from reidzoo._logging import get_logger, progress
from reidzoo._optional import require
from reidzoo.data.datasets._reader import Reader
from reidzoo.data.datasets.csv import SPLITS, read_csv
from reidzoo.data.records import NO_CAMERA, ReIDDataset
from reidzoo.errors import DataError, HubAccessError

_logger = get_logger(__name__)

PIDS = ("pid", "person_id", "identity", "person", "label")
CAMERAS = ("camid", "camera_id", "camera", "cam_id")
LAYOUT = """\
  splits train, query and gallery (or some of them) with the columns
    image                      pictures
    pid (or label, ...)        integers, or classes, which are named like folders of people
    camid (or camera, ...)     integers from 0; may be left out
Give it as hf:<owner>/<name>, or as hf:<folder> for such a data set on this machine."""

_FORMATS = ((b"\xff\xd8", ".jpg"), (b"\x89PNG", ".png"), (b"BM", ".bmp"), (b"RIFF", ".webp"), (b"GIF8", ".gif"))


def read_hf(place: Path) -> ReIDDataset:
    """Read a data set of the Hugging Face hub.

    The first time, it is streamed to ``$REIDZOO_HOME/hf/<owner>--<name>``: the image files as they are, and a CSV file.
    Remove that folder to fetch the data set anew.

    Args:
        place: ``<owner>/<name>``, or an absolute path to a folder that the package `datasets` reads.

    Raises:
        MissingExtraError: The package `datasets` is not installed.
        HubAccessError: The hub does not give the data set.
        DataError: It has no images, no identities, or none of the splits.
    """
    name = place.as_posix()
    folder = _env.home().absolute() / "hf" / re.sub(r"[^\w.-]+", "--", name).strip("-")
    table = folder / "images.csv"
    if not table.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            _fetch(name, partial)
            settle(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return replace(read_csv(table), name="hf", root=folder)


def _fetch(name: str, folder: Path) -> None:
    """Write the images and their list."""
    library = require("datasets", extra="data", purpose="Reading a data set in the format of the Hugging Face hub")
    try:
        splits = library.load_dataset(name, streaming=True)
    except Exception as e:  # the hub's errors, and those of damaged or foreign files
        raise HubAccessError(
            f"{name} cannot be read as a data set of the Hugging Face hub ({' '.join(str(e).split())}). If it is "
            f"there, you may have to accept its terms on its page, and to type: hf auth login"
        ) from e
    if missing := [split for split in splits if split not in SPLITS]:
        _logger.warning("%s: the splits %s are left out: only train, query and gallery are read.", name, missing)
    if len(missing) == len(splits):
        raise DataError(f"{name} has the splits {', '.join(missing)}. Expected:\n{LAYOUT}")
    with open(folder / "images.csv", "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("path", "pid", "split", "camid"))
        for split in SPLITS:
            if split in splits:
                _fetch_split(library, name, split, splits[split], folder, rows)


def _fetch_split(library: Any, name: str, split: str, stream: Any, folder: Path, rows: Any) -> None:
    features = stream.features or {}
    image = next((column for column, kind in features.items() if isinstance(kind, library.Image)), None)
    pid = next((column for column in PIDS if column in features), None)
    camera = next((column for column in CAMERAS if column in features), None)
    if image is None or pid is None:
        raise DataError(f"{name}: the split {split} has the columns {', '.join(features)}. Expected:\n{LAYOUT}")
    person = features[pid].int2str if isinstance(features[pid], library.ClassLabel) else str
    (folder / split).mkdir()
    stream = stream.cast_column(image, library.Image(decode=False))
    for number, row in enumerate(progress(stream, desc=f"Fetching {split}", unit="img")):
        content = row[image]["bytes"]
        if content is None:  # a file of a data set on this machine
            content = Path(row[image]["path"]).read_bytes()
        suffix = next((suffix for magic, suffix in _FORMATS if content.startswith(magic)), ".img")
        path = f"{split}/{number:08d}{suffix}"
        (folder / path).write_bytes(content)
        rows.writerow((path, person(row[pid]), split, NO_CAMERA if camera is None else row[camera]))


READER = Reader(
    read_hf,
    about="Image data sets of the Hugging Face hub, streamed to this machine once.",
    layout=LAYOUT,
    needs_path=True,
    hub=True,
)

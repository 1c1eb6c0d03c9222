"""CION-AL, and other collections listed in its JSON format (Zuo et al., NeurIPS 2024)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from reidzoo.data._index import IndexWriter, indexed
from reidzoo.data._json_stream import iter_json_list
from reidzoo.data.datasets._reader import Counts, Reader
from reidzoo.data.datasets._scan import find_root, list_folder
from reidzoo.data.records import NO_CAMERA, Records, ReIDDataset
from reidzoo.errors import DataError, DataNotFoundError

ANNOTATIONS = ("cional_annos.json", "cinoal_annos.json")  # the README's spelling, and the release code's
ALIASES = ("CION_AL", "CION-AL", "cion_al")
LAYOUT = """\
  <root>/cional_annos.json        [{"id": 1, "file_path": "sec0/....jpg"}, ...]
  <root>/sec0/...
  <root>/sec129/...
Give the folder as cion_al:<root>, or set REIDZOO_DATA to the folder above it; or give a list as cion_al:<file>."""

_OPTIONAL = ("video", "tracklet", "frame")
_BLOCK = 1 << 13
_ESCAPES = re.compile(r"(^|[/\\])\.\.([/\\]|$)")


def read_cion_al(root: Path) -> ReIDDataset:
    """Read the images that CION-AL's annotation file lists; all are for training.

    `pid` is the entry's ``id``. Its ``video``, ``tracklet`` and ``frame`` become extras if they are integers in every
    entry of the file. Cameras are not known. The first time, the file is parsed into an index (`reidzoo.data._index`).

    Args:
        root: The folder with the annotation file, its parent or one of its children; or the file.

    Raises:
        DataNotFoundError: There is no annotation file.
        DataError: It is not a list of objects with ``id`` and ``file_path``.
    """
    if not root.is_file():
        folder = find_root(root, ANNOTATIONS, ALIASES, LAYOUT)
        root = next(folder / name for name in ANNOTATIONS if (folder / name).exists())
    annotation, root = root, root.parent
    folders = [root / name for name in list_folder(root)[1]]
    train = indexed(
        "cion_al-1", root, lambda writer: _build(writer, annotation), annotation=annotation, folders=folders
    )
    return ReIDDataset("cion_al", root, train, Records.empty(), Records.empty())


def _build(writer: IndexWriter, annotation: Path) -> None:
    listed: dict[str, int] = {}  # images by folder
    entries = _checked(annotation)
    extras: list[str] | None = None
    while block := list(islice(entries, _BLOCK)):
        paths = [entry["file_path"] for entry in block]
        for path in paths:
            folder = path.rpartition("/")[0]
            listed[folder] = listed.get(folder, 0) + 1
        if extras is None:
            extras = [name for name in _OPTIONAL if name in block[0]]
        for name in [name for name in extras if any(name not in entry for entry in block)]:
            extras.remove(name)
            writer.drop(name)
            writer.note(f"{annotation}: {name!r} is left out, because some entries have no integer from 0 there.")
        columns = {name: [entry[name] for entry in block] for name in extras}
        writer.add(paths, pid=[entry["id"] for entry in block], camid=NO_CAMERA, **columns)
    _compare_with_disk(writer, annotation, listed)


def _checked(annotation: Path) -> Iterator[dict[str, Any]]:
    """What is used of every entry: a sound id and path, and the extras that are integers."""
    for number, entry in enumerate(iter_json_list(annotation), start=1):
        path = entry.get("file_path")
        if not _is_count(entry.get("id")):
            raise _wrong(annotation, number, "'id' to be an integer from 0", entry)
        if not isinstance(path, str) or not path or "\0" in path or os.path.isabs(path) or _ESCAPES.search(path):
            raise _wrong(annotation, number, f"'file_path' to be a path below {annotation.parent}", entry)
        used = {"id": entry["id"], "file_path": path}
        for name in _OPTIONAL:
            if name in entry and _is_count(entry[name]):
                used[name] = entry[name]
        yield used


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _wrong(annotation: Path, number: int, expected: str, entry: dict[str, Any]) -> DataError:
    shown = str(entry)
    shown = shown if len(shown) <= 120 else shown[:117] + "..."
    return DataError(f"{annotation}, entry {number:,}: expected {expected}, found {shown}.")


def _compare_with_disk(writer: IndexWriter, annotation: Path, listed: dict[str, int]) -> None:
    """Note folders with fewer files than listed. Which files are missing, `reidzoo data check` says."""
    if not writer.rows:
        raise DataError(f"{annotation} lists no images. Expected:\n{LAYOUT}")
    root, short = annotation.parent, []
    for folder, count in sorted(listed.items()):
        present = len(list_folder(root / folder)[0]) if (root / folder).is_dir() else 0
        if present < count:
            short.append((folder or ".", present, count))
    missing = sum(count - present for _, present, count in short)
    if missing == writer.rows:
        raise DataNotFoundError(
            f"None of the {writer.rows:,} images that are listed for {root} are there: {short[0][0]}/ holds none. "
            f"Expected:\n{LAYOUT}"
        )
    if short:
        folder, present, count = short[0]
        writer.note(
            f"{root}: at least {missing:,} of {writer.rows:,} listed images are missing, in {len(short)} folders, for "
            f"example {folder}/ has {present:,} files of {count:,}. Complete the copy; training names those that are "
            "missing."
        )


READER = Reader(
    read_cion_al,
    about="CION-AL, and other collections listed in its JSON format (Zuo et al., NeurIPS 2024).",
    layout=LAYOUT,
    published={"": {"train": Counts(3_898_086, 246_904)}},
)

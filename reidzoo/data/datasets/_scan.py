"""Walking image folders, and telling the user what was found there instead of what was expected."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from reidzoo._logging import get_logger
from reidzoo.data.records import JUNK, IntArray
from reidzoo.errors import DataError, DataNotFoundError

_logger = get_logger(__name__)

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_CLUTTER = frozenset({"thumbs.db", "desktop.ini"})  # what file managers leave behind; the official Market-1501 has them


def is_image(name: str) -> bool:
    """Whether the file name ends like an image's."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def list_folder(folder: Path) -> tuple[list[str], list[str]]:
    """Sorted names of the files and of the sub-folders in `folder`, without hidden files and file managers' clutter."""
    files: list[str] = []
    folders: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith(".") and entry.name.lower() not in _CLUTTER:
                (folders if entry.is_dir() else files).append(entry.name)
    return sorted(files), sorted(folders)


def report_skipped(folder: Path, skipped: Sequence[str], expected: str) -> None:
    """Warn once about the entries of `folder` that were left out, with a count and an example."""
    if skipped:
        _logger.warning("%s: %d entries left out, for example %r: %s.", folder, len(skipped), skipped[0], expected)


def find_root(path: Path, marker: str, aliases: Sequence[str], layout: str) -> Path:
    """Find the folder that holds `marker`, given it, its parent or one of its children.

    Args:
        path: folder that the user named.
        marker: name of a file or folder that the right folder has.
        aliases: names under which the data set is usually stored below `path`.
        layout: description of the expected tree, for the error.

    Raises:
        DataNotFoundError: Neither `path` nor its likely neighbours hold `marker`.
    """
    candidates = [path, *(path / alias for alias in aliases), path.parent]
    for candidate in candidates:
        if (candidate / marker).exists():
            return candidate
    looked = ", ".join(str(candidate) for candidate in candidates[:-1])
    raise DataNotFoundError(f"No {marker} in {looked}. {describe(path)} Expected:\n{layout}")


def describe(path: Path) -> str:
    """One sentence on what is at `path`."""
    if not path.exists():
        parent = next(p for p in path.parents if p.exists())
        return f"{path} does not exist; {parent} does and holds {_names(parent)}."
    if not path.is_dir():
        return f"{path} is a file."
    return f"{path} holds {_names(path)}."


def _names(folder: Path) -> str:
    files, folders = list_folder(folder)
    names = [f"{name}/" for name in folders] + files
    shown = ", ".join(names[:8]) + (f", ... ({len(names)} entries)" if len(names) > 8 else "")
    return shown or "nothing"


def numeric_pids(names: Iterable[str]) -> IntArray:
    """Identity numbers of identity names.

    Names that are all integers keep their value. Otherwise identities are numbered from 1 in the sorted order of their
    names (0 stays free for distractors); the name ``-1`` is junk either way.

    Args:
        names: name of the identity of every image.

    Returns:
        (N,) int64.

    Raises:
        DataError: An integer name is below -1.
    """
    names = list(names)
    distinct = sorted(set(names))
    try:
        number = {name: int(name) for name in distinct}
    except ValueError:
        number = {name: i for i, name in enumerate((n for n in distinct if n != str(JUNK)), start=1)}
        number[str(JUNK)] = JUNK
    if (lowest := min(number.values(), default=0)) < JUNK:
        raise DataError(
            f"Identity {lowest} is below -1. Expected -1 for junk, 0 for distractors, or a positive number."
        )
    return np.fromiter((number[name] for name in names), dtype=np.int64, count=len(names))

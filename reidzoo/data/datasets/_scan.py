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


def find_root(path: Path, marker: str | Sequence[str], aliases: Sequence[str], layout: str) -> Path:
    """Find the folder that holds `marker`, given it, its parent or one of its children.

    Args:
        path: folder that the user named.
        marker: name of a file or folder that the right folder has (``a/b`` for a deeper one), or several, of which one
            is enough.
        aliases: names under which the data set is usually stored below `path`.
        layout: description of the expected tree, for the error.

    Raises:
        DataNotFoundError: Neither `path` nor its likely neighbours hold `marker`; guesses another folder below `path`.
    """
    markers = (marker,) if isinstance(marker, str) else tuple(marker)
    candidates = [path, *(path / alias for alias in aliases), path.parent]
    for candidate in candidates:
        if any((candidate / name).exists() for name in markers):
            return candidate
    looked = ", ".join(str(candidate) for candidate in candidates[:-1])
    below = [path / name for name in list_folder(path)[1]] if path.is_dir() else []
    better = [folder for folder in below if any((folder / name).exists() for name in markers)]
    guess = f" {' and '.join(map(str, better[:3]))} would do: give that folder." if better else ""
    raise DataNotFoundError(f"No {' or '.join(markers)} in {looked}. {describe(path)}{guess} Expected:\n{layout}")


def locate_listed(folder: Path, listed: Sequence[str]) -> dict[str, str]:
    """Find images that a list names, reading every folder once; say which are missing, and which are not listed.

    An image that is stored with another image suffix than the listed one counts as found.

    Args:
        folder: where the listed paths begin.
        listed: paths with forward slashes.

    Returns:
        Full path by listed path, of the images that are there.
    """
    there: dict[str, str] = {}  # by its path without the suffix
    for parent in sorted({name.rpartition("/")[0] for name in listed}):
        place = folder / parent
        for name in list_folder(place)[0] if place.is_dir() else ():
            if is_image(name):
                there[os.path.join(parent, os.path.splitext(name)[0])] = f"{place}/{name}"
    stems = {name: os.path.splitext(name)[0] for name in listed}
    found = {name: there[stem] for name, stem in stems.items() if stem in there}
    report_skipped(folder, [name for name in listed if name not in found], "the lists name them, but they are missing")
    unlisted = sorted(there.keys() - stems.values())
    report_skipped(folder, [there[stem] for stem in unlisted], "images that are in no list are not used")
    return found


def describe(path: Path) -> str:
    """One sentence on what is at `path`."""
    if not path.exists():
        parent = next(p for p in path.parents if p.exists())
        what = f"does and holds {_names(parent)}" if parent.is_dir() else "is a file"
        return f"{path} does not exist; {parent} {what}."
    if not path.is_dir():
        return f"{path} is a file."
    return f"{path} holds {_names(path)}."


def _names(folder: Path) -> str:
    files, folders = list_folder(folder)
    names = [f"{name}/" for name in folders] + files
    shown = ", ".join(names[:8]) + (f", ... ({len(names)} entries)" if len(names) > 8 else "")
    return shown or "nothing"


def numeric_pids(names: Iterable[str], where: Path) -> IntArray:
    """Identity numbers of identity names.

    Names that are all integers keep their value. Otherwise identities are numbered from 1 in the sorted order of their
    names (0 stays free for distractors); the name ``-1`` is junk either way.

    Args:
        names: name of the identity of every image.
        where: what was read, for errors.

    Returns:
        (N,) int64.

    Raises:
        DataError: An integer name is below -1, or does not fit in 64 bits.
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
            f"{where}: Identity {lowest} is below -1. Expected -1 for junk, 0 for distractors, or a positive number."
        )
    if (highest := max(number.values(), default=0)) >= 1 << 63:
        raise DataError(
            f"{where}: Identity {highest} is too large. Expected a number below {1 << 63}, or a name with a letter."
        )
    first: dict[int, str] = {}
    joined = [(first[number[name]], name) for name in distinct if first.setdefault(number[name], name) != name]
    if joined:
        _logger.warning(
            "%s: %d identities have the number of another one and are joined with it, for example %r and %r.",
            where, len(joined), *joined[0],
        )  # fmt: skip
    return np.fromiter((number[name] for name in names), dtype=np.int64, count=len(names))

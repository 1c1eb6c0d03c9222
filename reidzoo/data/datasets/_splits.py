"""Small data sets with ten divisions into people to train on and people to test with: published ones, or our own.

The published divisions were drawn by chance and exist as files only. Where a copy of the data has no such file, own
ones are made, the same on every machine: see `own_order`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from reidzoo._logging import get_logger
from reidzoo.data.datasets._reader import Counts
from reidzoo.data.datasets._scan import describe, is_image, list_folder, report_skipped
from reidzoo.data.records import IntArray, Records, ReIDDataset
from reidzoo.errors import DataError, DataNotFoundError

_logger = get_logger(__name__)

T = TypeVar("T")

VARIANTS = tuple(str(n) for n in range(1, 11))
SPLITS = ("train", "query", "gallery")


def scan(
    folder: Path, pattern: re.Pattern[str], expected: str, layout: str, *, complain: bool = True
) -> list[tuple[str, re.Match[str]]]:
    """Images of `folder` whose names, without the suffix, fit `pattern`; the others are reported.

    Args:
        folder: where the images are.
        pattern: what a whole name has to be.
        expected: the same in words.
        layout: description of the expected tree, for errors.
        complain: whether a folder that is missing or without such images is an error.

    Returns:
        (full path, match) sorted by name.
    """
    files, folders = list_folder(folder) if folder.is_dir() else ([], [])
    matches = [(file, pattern.fullmatch(os.path.splitext(file)[0]) if is_image(file) else None) for file in files]
    report_skipped(folder, [*folders, *(file for file, match in matches if match is None)], expected)
    found = [(f"{folder}/{file}", match) for file, match in matches if match]
    if not found and complain:
        raise (DataError if folder.is_dir() else DataNotFoundError)(
            f"There is no image that can be used in {folder}. {describe(folder)} Expected:\n{layout}"
        )
    return found


def to_records(found: Sequence[tuple[str, T]], number: Callable[[T], tuple[int, int]]) -> Records:
    """Records of scanned images; `number` gives the pid and the camid of each."""
    numbers = np.array([number(match) for _, match in found], dtype=np.int64).reshape(-1, 2)
    return Records.from_columns((path for path, _ in found), *numbers.T)


def own_order(name: str, variant: str, items: Iterable[T]) -> list[T]:
    """Sort `items` by the SHA-256 of the text ``"<name> <variant> <item>"``: by chance, but the same everywhere."""
    return sorted(items, key=lambda item: hashlib.sha256(f"{name} {variant} {item}".encode()).digest())


def own_half(name: str, variant: str, pids: Iterable[int], root: Path, missing: str) -> list[int]:
    """Persons to train on where no division is published: the first half, rounded down, of `own_order`.

    Args:
        name: name of the data set.
        variant: number of the division.
        pids: persons to divide.
        root: the data set's folder.
        missing: what a published division would have been read from.
    """
    distinct = sorted(set(pids))
    _logger.warning(
        "%s has no %s: these are reidzoo's own splits, not the published ones. Compare with published figures only "
        "within their spread.", root, missing
    )  # fmt: skip
    return own_order(name, variant, distinct)[: len(distinct) // 2]


def read_split_file(root: Path, variant: str, names: Sequence[str]) -> tuple[Path, dict[str, Any]] | None:
    """The division `variant` from the first of the JSON files `names` that is there; None where there is none.

    Raises:
        DataError: The file is no JSON list of objects, or it has no such division.
    """
    file = next((root / name for name in names if (root / name).is_file()), None)
    if file is None:
        return None
    try:
        splits = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as e:
        raise DataError(f"{file} is no JSON file: {e}. Get it again, or remove it to use own splits.") from e
    if not isinstance(splits, list) or not all(isinstance(split, dict) for split in splits):
        raise DataError(f"{file} should hold a list of objects, one per split; found something else.")
    if int(variant) > len(splits):
        raise DataError(f"{file} holds {len(splits)} splits; there is no split {variant}.")
    if len(splits) != len(VARIANTS):
        _logger.warning("%s holds %d splits, not %d; the first %d are used.", file, len(splits), *[len(VARIANTS)] * 2)
    return file, splits[int(variant) - 1]


def listed(source: tuple[Path, dict[str, Any]], part: str) -> list[str]:
    """Image paths, or identities as text, that a division lists under `part`.

    Raises:
        DataError: It has no such list, or the list holds something else.
    """
    file, split = source
    entries = split.get(part)
    if not isinstance(entries, list):
        raise DataError(f"{file}: a split has no list {part!r}; it has {', '.join(map(repr, split)) or 'nothing'}.")
    texts = [entry[0] if isinstance(entry, list) and entry else entry for entry in entries]  # [path, pid, camera]
    wrong = [t for t in texts if isinstance(t, bool) or not isinstance(t, (str, int))]
    if wrong:
        raise DataError(f"{file}: a split lists {wrong[0]!r} under {part!r}; expected an image's path or a person.")
    return [str(text) for text in texts]


def pick_listed(images: Records, source: tuple[Path, dict[str, Any]], part: str) -> Records:
    """The images that a division lists under `part`, in its order.

    A listed path counts by its last folder and its name without the suffix, or by the latter alone where it is clear:
    the files hold paths of the machine that wrote them.

    Raises:
        DataError: None of them is there.
    """
    rows: dict[str, int] = {}
    for row, path in enumerate(images.path):
        folder, stem = _ends(path)
        rows[f"{folder}/{stem}"] = row
        rows[stem] = row if stem not in rows else -1
    names = listed(source, part)
    found = [rows.get("/".join(_ends(name)), rows.get(_ends(name)[1], -1)) for name in names]
    lost = [name for name, row in zip(names, found, strict=True) if row < 0]
    if lost and len(lost) < len(names):
        _logger.warning(
            "%s: %d of the %d %s images of this split are missing, for example %r.",
            source[0], len(lost), len(names), part, lost[0],
        )  # fmt: skip
    elif lost or not names:
        raise DataError(
            f"{source[0]} lists {len(names)} {part} images{f', such as {lost[0]!r}' if lost else ''}; none of them is "
            f"below {source[0].parent}. {describe(source[0].parent)}"
        )
    return images.select([row for row in found if row >= 0])


def _ends(path: str) -> tuple[str, str]:
    *_, folder, name = ("", *path.replace("\\", "/").split("/"))
    return folder, os.path.splitext(name)[0]


def keep_pairs(images: Records, view: IntArray, root: Path, strangers: Iterable[int] = ()) -> tuple[Records, IntArray]:
    """Keep the persons with images in both views, and report the images of the others.

    Args:
        images: all images.
        view: (N,) int64 view of each image, 0 or 1.
        root: the data set's folder.
        strangers: pids that are kept in view 1 and left out of view 0.

    Returns:
        What is kept of `images` and of `view`.
    """
    no_pair = np.isin(images.pid, list(strangers))
    paired = np.isin(images.pid, np.intersect1d(images.pid[view == 0], images.pid[view == 1])) & ~no_pair
    keep = paired | (no_pair & (view == 1))
    report_skipped(root, list(images.select(~keep).path), "this person has no image in the other view")
    return images.select(keep), view[keep]


def two_views(
    name: str, root: Path, images: Records, view: IntArray, train: Iterable[int], test: Iterable[int] | None = None
) -> ReIDDataset:
    """Divide the persons: all images of `train` for training; `test` as queries in view 0 and as gallery in view 1.

    Args:
        name: name of the data set.
        root: its folder.
        images: all images.
        view: (N,) int64 view of each image, 0 or 1.
        train: persons to train on.
        test: persons to test with; None: all others.

    Raises:
        DataError: A split is empty.
    """
    is_train = np.isin(images.pid, list(train))
    is_test = ~is_train if test is None else np.isin(images.pid, list(test))
    lost = np.setdiff1d([*train, *(test or ())], images.pid).tolist()
    report_skipped(root, [str(pid) for pid in lost], "the split lists these persons, but they have no images")
    return assemble(
        name,
        root,
        train=images.select(is_train),
        query=images.select(is_test & (view == 0)),
        gallery=images.select(is_test & (view == 1)),
    )


def assemble(name: str, root: Path, **splits: Records) -> ReIDDataset:
    """The data set of these splits.

    Raises:
        DataError: One of them is empty.
    """
    empty = [split for split, records in splits.items() if not len(records)]
    if empty:
        raise DataError(f"{name} at {root}: the {' and the '.join(empty)} split would be empty. {describe(root)}")
    return ReIDDataset(name, root, **splits)


def same_counts(counts: Mapping[str, Counts]) -> dict[str, Mapping[str, Counts]]:
    """Published figures that hold for each of the ten divisions."""
    return dict.fromkeys(VARIANTS, counts)

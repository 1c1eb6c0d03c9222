"""Lists of image names, best first: which part of a data set to train on, said by one program to another.

The form is that of TransReID-SSL's ``CFS_list.pkl`` (Luo et al., "Self-Supervised Pre-Training for Transformer-Based
Person Re-Identification", 2021): a pickled list of file names relative to the folder ``images``. JSON and plain text
hold the same.
"""

from __future__ import annotations

import json
import math
import os
import pickle
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from reidzoo._files import atomic
from reidzoo._logging import get_logger
from reidzoo.data.records import IntArray, Records, ReIDDataset
from reidzoo.errors import ConfigError, DataError, DataNotFoundError

T = TypeVar("T")

SUFFIXES = (".pkl", ".json", ".txt")

_logger = get_logger(__name__)


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it wants to load {module}.{name}")


def read_name_list(file: Path) -> list[str]:
    """Read a list of file names: a ``.pkl`` or ``.json`` that holds one, or a ``.txt`` with one name per line.

    A pickle is read without loading anything but strings and lists, so it cannot run code.

    Raises:
        DataNotFoundError: There is no such file.
        DataError: The file holds something else.
    """
    try:
        if file.suffix == ".pkl":
            with file.open("rb") as stream:
                names = _PlainUnpickler(stream).load()
        elif file.suffix == ".json":
            names = json.loads(file.read_text("utf-8-sig"))
        else:
            lines = file.read_text("utf-8-sig", errors="surrogateescape").split("\n")
            names = [line.strip() for line in lines if line.strip()]
    except FileNotFoundError as e:
        raise DataNotFoundError(
            f"There is no list of images {file}. Make one with: reidzoo cfs DATA OUT --source MODEL --target MODEL"
        ) from e
    except Exception as e:  # damaged pickles raise nearly anything
        raise DataError(f"{file} cannot be read ({e}). Expected a list of file names, best first.") from e
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"{file} holds no list of file names, but {type(names).__name__}: {str(names)[:80]}")
    if len(set(names)) < len(names):
        raise DataError(f"{file} names {len(names) - len(set(names)):,} images twice.")
    return names


def write_name_list(file: Path, names: Sequence[str]) -> None:
    """Write what `read_name_list` reads, in the form that the file's suffix says: ``.pkl``, ``.json`` or ``.txt``.

    Raises:
        ConfigError: Another suffix.
        DataError: A name that a text file cannot hold: with a line break in it, or a space at its edge.
    """
    if file.suffix not in SUFFIXES:
        raise ConfigError(f"The list of images is to be {file}; expected a name that ends in {', '.join(SUFFIXES)}.")
    with atomic(file) as temporary:
        if file.suffix == ".pkl":
            temporary.write_bytes(pickle.dumps(list(names)))
        elif file.suffix == ".json":
            temporary.write_text(json.dumps(list(names), indent=0) + "\n", "utf-8")
        else:
            odd = next((name for name in names if name.strip().splitlines() != [name]), None)
            if odd is not None:
                raise DataError(f"{file} cannot hold the name {odd!r}, one per line. Write .json or .pkl instead.")
            temporary.write_bytes("".join(f"{name}\n" for name in names).encode("utf-8", "surrogateescape"))


def first_part(names: Sequence[T], share: float) -> Sequence[T]:
    """The first `share` (above 0, up to 1) of `names`, rounded up: of 4,180,243, 0.6 are 2,508,146."""
    return names[: math.ceil(Fraction(str(share)) * len(names))]


def training_names(data: ReIDDataset) -> list[str]:
    """Name every training image as a list does: relative to ``<root>/images`` if all are there, else to the root."""
    for folder in (data.root / "images", data.root):
        start = os.path.join(folder, "")
        if all(path.startswith(start) for path in data.train.path):
            return [path[len(start) :].replace(os.sep, "/") for path in data.train.path]
    return [path.replace(os.sep, "/") for path in data.train.path]  # a table of images from anywhere


def keep_best(records: Records, file: Path, share: float = 1.0, *, skip_missing: bool = False) -> Records:
    """The images that `file` puts first, in their former order.

    A name means the image whose path ends with it, folder by folder: file names, paths relative to the data set or to
    a folder of it, and full paths all work.

    Args:
        records: The images that there are.
        file: The list, best first, see `read_name_list`.
        share: How much of the list to keep, above 0 and up to 1.
        skip_missing: Leave names out that no image has, with a warning.

    Raises:
        ConfigError: `share` is out of range.
        DataNotFoundError: There is no such list, or no image of some of its names.
        DataError: It holds something else, or one of its names fits two images.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"data_fraction is {share}; expected more than 0 and at most 1, such as 0.5.")
    names = first_part(read_name_list(file), share)
    rows = _find(names, records, file)
    missing = [names[i] for i in np.flatnonzero(rows < 0)[:3]]
    if missing:
        count = f"{int((rows < 0).sum()):,} of the {len(names):,} images that {file} puts first"
        examples = ", ".join(missing)
        if len(records) == 0 or (rows < 0).all():
            one = f", which are named like {records.path[0]}" if len(records) else ""
            raise DataNotFoundError(
                f"None of the {len(names):,} images that {file} puts first, such as {examples}, is among the "
                f"{len(records):,} training images{one}. Give the list that was made for these data."
            )
        if not skip_missing:
            raise DataNotFoundError(
                f"{count} are not there: {examples}{', ...' if (rows < 0).sum() > 3 else ''}. Complete the copy of the "
                "data, or leave such names out with skip_corrupt=True (command line: --skip-corrupt)."
            )
        _logger.warning("left out %s and that are not there, such as %s", count, examples)
    return records.select(np.sort(rows[rows >= 0]))


def _find(names: Sequence[str], records: Records, file: Path) -> IntArray:
    """Row of the image of each name, -1 where there is none."""
    rank = {name: i for i, name in enumerate(names)}
    depths = sorted({name.count("/") + 1 for name in names}, reverse=True)  # folders of a name, and its file
    rows = np.full(len(names), -1, dtype=np.int64)
    for row, path in enumerate(records.path):
        parts = path.replace(os.sep, "/").rsplit("/", depths[0])
        for depth in depths:
            place = rank.get("/".join(parts[-depth:]))
            if place is None:
                continue
            if rows[place] >= 0 and records.path[int(rows[place])] != path:
                raise DataError(
                    f"{file} names {names[place]!r}, which fits {records.path[int(rows[place])]} and {path}. Name the "
                    "images with their folders, relative to the data set."
                )
            rows[place] = row
            break
    return rows

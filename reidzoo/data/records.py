"""Image collections as columns: no Python object per image, so ten million of them fit in memory.

A row is one image: its path, its identity (`pid`), its camera (`camid`) and whatever else a data set knows.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reidzoo.data._columns import IntArray as IntArray
from reidzoo.data._columns import PathColumn as PathColumn
from reidzoo.data._columns import pack, unpack
from reidzoo.errors import DataError

JUNK = -1
"""pid of images that scoring ignores (a bad box on a person who may be the query)."""
DISTRACTOR = 0
"""pid of gallery images of nobody in the query set, in Market-1501's numbering."""
NO_CAMERA = -1
"""camid of images whose camera is not known."""


@dataclass(frozen=True, eq=False)
class Records:
    """One split of a data set, as columns of equal length N.

    Args:
        path: full paths of the image files.
        pid: (N,) int64 identities, at least -1. -1 is junk; 0 is a distractor in a Market-1501 gallery.
        camid: (N,) int64 cameras, at least -1. -1 says that the camera is not known.
        extras: further (N,) columns, for example ``"video"`` and ``"tracklet"``.

    Raises:
        DataError: The columns differ in length, or a pid or camid is below -1.
    """

    path: PathColumn
    pid: IntArray
    camid: IntArray
    extras: dict[str, NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = {"path": len(self.path), "pid": len(self.pid), "camid": len(self.camid)}
        lengths |= {name: len(column) for name, column in self.extras.items()}
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"{name} {n}" for name, n in lengths.items())
            raise DataError(f"All columns of Records need one length; found {found}.")
        for name, column in (("pid", self.pid), ("camid", self.camid)):
            if len(column) and (low := int(column.min())) < -1:
                raise DataError(
                    f"{name} {low} at row {int(column.argmin())} ({self.path[int(column.argmin())]}): "
                    f"expected -1 (unknown) or a number from 0."
                )

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpack_records, (
            self.path,
            pack(self.pid),
            pack(self.camid),
            {name: pack(column) for name, column in self.extras.items()},
        )

    @classmethod
    def from_columns(
        cls, paths: Iterable[str | os.PathLike[str]], pid: ArrayLike, camid: ArrayLike, **extras: ArrayLike
    ) -> Records:
        """Build records from any sequences of equal length.

        Raises:
            DataError: The lengths differ, or a pid or camid is no integer from -1.
        """
        return cls(
            PathColumn.from_strings(paths),
            _integers("pid", pid),
            _integers("camid", camid),
            {name: np.asarray(column) for name, column in extras.items()},
        )

    @classmethod
    def empty(cls) -> Records:
        """Records of no image, for a split that a data set does not have."""
        return cls.from_columns([], [], [])

    def __len__(self) -> int:
        return len(self.path)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Records):
            return NotImplemented
        return (
            self.path == other.path
            and np.array_equal(self.pid, other.pid)
            and np.array_equal(self.camid, other.camid)
            and self.extras.keys() == other.extras.keys()
            and all(np.array_equal(column, other.extras[name]) for name, column in self.extras.items())
        )

    __hash__ = None  # type: ignore[assignment]  # holds arrays

    def __repr__(self) -> str:
        extras = "".join(f", {name}" for name in self.extras)
        return f"Records({len(self)} images, {self.num_pids} ids, {self.num_cams} cameras{extras})"

    @property
    def num_pids(self) -> int:
        """Number of distinct identities; junk (-1) does not count."""
        return len(np.unique(self.pid[self.pid != JUNK]))

    @property
    def num_cams(self) -> int:
        """Number of distinct known cameras."""
        return len(np.unique(self.camid[self.camid != NO_CAMERA]))

    def select(self, index: ArrayLike) -> Records:
        """Rows given by a boolean mask (N,) or by positions, in that order.

        Raises:
            IndexError: A position is out of range, or the mask has another length.
        """
        rows = np.asarray(index)
        rows = np.arange(len(self))[rows if rows.size else rows.astype(np.int64)]
        return Records(
            self.path.select(rows),
            self.pid[rows],
            self.camid[rows],
            {name: column[rows] for name, column in self.extras.items()},
        )

    def relabel(self) -> Records:
        """The same rows with pids replaced by the class labels 0 .. `num_pids` - 1, in the order of the pids.

        Raises:
            DataError: Junk images are among them; they are nobody's class.
        """
        if (self.pid == JUNK).any():
            raise DataError(
                f"{int((self.pid == JUNK).sum())} of {len(self)} images are junk (pid -1) and cannot become a class. "
                f"Leave them out first: records.select(records.pid >= 0)."
            )
        labels = np.unique(self.pid, return_inverse=True)[1].reshape(-1)
        return Records(self.path, labels.astype(np.int64), self.camid, self.extras)


def _unpack_records(
    path: PathColumn, pid: tuple[Any, ...], camid: tuple[Any, ...], extras: dict[str, tuple[Any, ...]]
) -> Records:
    """Build the records without the checks of a new one, which read whole columns."""
    records = object.__new__(Records)
    columns = {"path": path, "pid": unpack(pid), "camid": unpack(camid)}
    records.__dict__.update(columns, extras={name: unpack(column) for name, column in extras.items()})
    return records


def _integers(name: str, values: ArrayLike) -> IntArray:
    given = np.asarray(values).reshape(-1)
    try:
        with np.errstate(invalid="ignore"):
            column: IntArray = given.astype(np.int64)
    except ValueError:
        column = np.empty(0, dtype=np.int64)
    if not np.array_equal(column, given):  # text, fractions, NaN
        raise DataError(f"{name} has values that are no integers: expected numbers like 7, found dtype {given.dtype}.")
    return column


@dataclass(frozen=True)
class ReIDDataset:
    """A data set with its three splits; one that it does not have is empty.

    Args:
        name: registered name of its reader.
        root: folder (or file) it was read from.
        train: images for training.
        query: images that are searched for.
        gallery: images that are searched through, junk and distractors included.
        multi_query: further images of the query persons from the query's camera, where the data set has them.
    """

    name: str
    root: Path
    train: Records
    query: Records
    gallery: Records
    multi_query: Records = field(default_factory=Records.empty)

    @property
    def is_drawn(self) -> bool:
        """Whether its people are drawn (`write_synthetic`), in whatever layout."""
        return (self.root / "synthetic.json").exists()

    def summary(self) -> str:
        """Table of images, identities and cameras per split."""
        lines = [f"{self.name}  {self.root}", f"{'split':<8} {'images':>12} {'ids':>10} {'cameras':>8}"]
        for split in ("train", "query", "gallery"):
            records: Records = getattr(self, split)
            line = f"{split:<8} {len(records):>12,} {records.num_pids:>10,} {records.num_cams:>8,}"
            lines.append(line + (f"  {self._gallery_notes()}" if split == "gallery" else "").rstrip())
        return "\n".join(lines)

    def _gallery_notes(self) -> str:
        counts = {"junk": int((self.gallery.pid == JUNK).sum())}
        if not (self.query.pid == DISTRACTOR).any():
            counts["distractors"] = int((self.gallery.pid == DISTRACTOR).sum())
        notes = ", ".join(f"{n:,} {what}" for what, n in counts.items() if n)
        return f"of which {notes}" if notes else ""

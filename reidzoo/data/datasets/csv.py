"""Your own images, listed in a CSV file."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from reidzoo._logging import get_logger
from reidzoo.data.datasets._reader import Reader
from reidzoo.data.datasets._scan import describe, numeric_pids
from reidzoo.data.records import NO_CAMERA, IntArray, Records, ReIDDataset
from reidzoo.errors import DataError, DataNotFoundError, did_you_mean

_logger = get_logger(__name__)

SPLITS = ("train", "query", "gallery")
REQUIRED = ("path", "pid", "split")
LAYOUT = """\
  path,pid,split,camid
  images/anna_1.jpg,anna,train,0
  images/bert_7.jpg,bert,gallery,2
path is relative to the CSV file or absolute; split is train, query or gallery; camid and further integer columns are
optional. Give the file as csv:<file>."""


def read_csv(file: Path) -> ReIDDataset:
    """Read a CSV file (UTF-8, with a header) with the columns path, pid, split, and optionally camid and others.

    `pid` keeps its value if all are integers; otherwise identities are numbered from 1 in the sorted order of their
    names. `camid` is -1 (not known) without that column. Further columns of integers become `Records.extras`.

    Raises:
        DataNotFoundError: The CSV file or images that it lists are missing.
        DataError: A column is missing, or a row has something else than expected; names the line.
    """
    if not file.is_file():
        raise DataNotFoundError(f"There is no file {file}. {describe(file)} Expected a CSV file like:\n{LAYOUT}")
    try:
        columns, lines = _read_columns(file)
    except (UnicodeDecodeError, csv.Error) as e:
        raise DataError(f"{file} is not a CSV file in UTF-8 ({e}). Save it as one. Expected:\n{LAYOUT}") from None
    paths = [os.path.join(file.parent, path) for path in columns.pop("path")]
    split = np.array(columns.pop("split"), dtype="U8")
    pid = numeric_pids(columns.pop("pid"), file)
    camid = np.full(len(paths), NO_CAMERA, dtype=np.int64)
    if "camid" in columns:
        camid = _integers(file, "camid", columns.pop("camid"), lines)
    extras = {}
    for name, values in columns.items():
        if _is_integer(values[0]):
            extras[name] = _integers(file, name, values, lines)
        else:
            _logger.warning("%s: column %r is left out: its values are not integers (%r).", file, name, values[0])

    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        raise DataNotFoundError(
            f"{len(missing)} of {len(paths)} images listed in {file} are missing: {', '.join(missing[:3])}"
            f"{', ...' if len(missing) > 3 else ''}. Relative paths count from {file.parent}."
        )
    records = Records.from_columns(paths, pid, camid, **extras)
    return ReIDDataset("csv", file, **{name: records.select(split == name) for name in SPLITS})


def _read_columns(file: Path) -> tuple[dict[str, list[str]], list[int]]:
    """Columns of the file by name, and the line on which each row ends."""
    with open(file, encoding="utf-8-sig", newline="") as stream:
        rows = csv.reader(stream)
        header = [name.strip() for name in next(rows, [])]
        for name in REQUIRED:
            if name not in header:
                raise DataError(
                    f"{file}: line 1 has no column {name!r}.{did_you_mean(name, header)} "
                    f"Found: {', '.join(header)[:200]}. Expected:\n{LAYOUT}"
                )
        check = _row_check(file, header)
        table, lines = [], []
        for row in rows:
            if row:
                check(row, rows.line_num)
                table.append(row)
                lines.append(rows.line_num)
    if not table:
        raise DataError(f"{file} lists no image. Expected:\n{LAYOUT}")
    return {
        name: [value.strip() for value in column] for name, column in zip(header, zip(*table, strict=True), strict=True)
    }, lines


def _row_check(file: Path, header: list[str]) -> Callable[[list[str], int], None]:
    where = {name: header.index(name) for name in REQUIRED}

    def check(row: list[str], line: int) -> None:
        if len(row) != len(header):
            raise DataError(
                f"{file}, line {line}: expected {len(header)} values ({', '.join(header)}), found {len(row)}."
            )
        for name, column in where.items():
            if not row[column].strip():
                raise DataError(f"{file}, line {line}: {name} is empty.")
        if row[where["split"]].strip() not in SPLITS:
            raise DataError(
                f"{file}, line {line}: split is {row[where['split']]!r}, expected one of {', '.join(SPLITS)}."
            )

    return check


def _is_integer(value: str) -> bool:
    try:
        return -(1 << 63) <= int(value) < 1 << 63
    except ValueError:
        return False


def _integers(file: Path, name: str, values: list[str], lines: list[int]) -> IntArray:
    try:
        return np.array([int(value) for value in values], dtype=np.int64)
    except (ValueError, OverflowError):
        row = next(i for i, value in enumerate(values) if not _is_integer(value))
        raise DataError(f"{file}, line {lines[row]}: {name} is {values[row]!r}, expected an integer.") from None


READER = Reader(read_csv, about="Your own images listed in a CSV file.", layout=LAYOUT, needs_path=True)

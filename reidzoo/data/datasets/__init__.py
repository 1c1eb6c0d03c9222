"""Data sets by name. A reader is a function from a path to a `ReIDDataset`; one small file each."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from reidzoo import _env
from reidzoo._registry import Registry
from reidzoo.data.datasets.csv import read_csv
from reidzoo.data.datasets.folder import read_folder
from reidzoo.data.datasets.market1501 import read_market1501
from reidzoo.data.datasets.synthetic import read_synthetic
from reidzoo.data.records import ReIDDataset
from reidzoo.errors import DataError, DataNotFoundError, UnknownDatasetError

__all__ = ["list_datasets", "load_dataset"]

_READERS: Registry[Callable[[Path], ReIDDataset]] = Registry(
    "data set", UnknownDatasetError, "Your own images: folder:<folder with one folder per person> or csv:<file>."
)
_READERS.add("market1501", read_market1501)
_READERS.add("synthetic", read_synthetic)
_READERS.add("folder", read_folder)
_READERS.add("csv", read_csv)

_NEEDS_PATH = ("folder", "csv")


def list_datasets(pattern: str = "*") -> list[str]:
    """Names of the data sets that `load_dataset` can read, filtered by a shell pattern."""
    return _READERS.names(pattern)


def load_dataset(spec: str | os.PathLike[str] | ReIDDataset) -> ReIDDataset:
    """Read a data set's records; images are opened later.

    Args:
        spec: ``"name"`` (looked for below ``$REIDZOO_DATA``), ``"name:/path"``, a `Path` whose layout is recognised,
            or a data set, which is returned as it is. Names: `list_datasets`.

    Raises:
        UnknownDatasetError: No data set has this name; says the closest ones.
        DataNotFoundError: The data are not where they should be; says what is there and what was expected.
        DataError: A split is empty or a file cannot be read as what it should be.

    Example:
        >>> load_dataset("market1501:/data/market1501").summary()  # doctest: +SKIP
    """
    if isinstance(spec, ReIDDataset):
        return spec
    if not isinstance(spec, str):
        path = _absolute(os.fspath(spec))
        return _READERS[_recognise(path)](path)
    name, colon, path_text = spec.partition(":")
    if os.path.isabs(spec) or (len(name) == 1 and colon):  # a bare path; C: is a drive
        raise UnknownDatasetError(
            f"{spec!r} is a path without the name of its layout. Write it as <layout>:{spec}, for example "
            f"folder:{spec}. Layouts: {', '.join(list_datasets())}."
        )
    reader = _READERS[name]
    if path_text:
        return reader(_absolute(path_text))
    if colon or name in _NEEDS_PATH:
        raise DataError(f"{spec!r} names no path. Write it as {name}:/path/to/the/data.")
    return reader(_absolute(_env.data_root()))  # readers look for their folder below the one they are given


def _absolute(path: str | Path) -> Path:
    return Path(path).expanduser().absolute()


def _recognise(path: Path) -> str:
    if path.is_file() and path.suffix.lower() == ".csv":
        return "csv"
    if not path.is_dir():
        raise DataNotFoundError(
            f"{path} is neither a folder nor a .csv file. Known layouts: {', '.join(list_datasets())}."
        )
    if (path / "synthetic.csv").exists():
        return "synthetic"
    return "market1501" if (path / "bounding_box_train").exists() else "folder"

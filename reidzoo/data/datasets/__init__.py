"""Data sets by name. A reader is a function from a path to a `ReIDDataset`; one small file each."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reidzoo import _env
from reidzoo._logging import get_logger
from reidzoo._registry import Registry
from reidzoo.data.combine import combine, whole
from reidzoo.data.datasets import (
    cion_al,
    csv,
    cuhk02,
    cuhk03,
    cuhk_sysu,
    dgmarket,
    dukemtmc,
    folder,
    grid,
    hf,
    ilids,
    luperson,
    luperson_nl,
    market1501,
    msmt17,
    prid,
    synthetic,
    tracklets,
    viper,
)
from reidzoo.data.datasets._reader import Reader, differences
from reidzoo.data.datasets._spec import summands
from reidzoo.data.datasets._splits import VARIANTS as _TEN_SPLITS
from reidzoo.data.records import ReIDDataset
from reidzoo.errors import DataError, DataNotFoundError, UnknownDatasetError, did_you_mean

__all__ = ["dataset_info", "list_datasets", "load_dataset", "load_splits"]

_logger = get_logger(__name__)

_READERS: Registry[Reader] = Registry(
    "data set", UnknownDatasetError, "Your own images: folder:<folder with one folder per person> or csv:<file>."
)
for _name, _reader in (
    ("market1501", market1501.READER),
    ("msmt17", msmt17.READER),
    ("dukemtmc", dukemtmc.READER),
    ("cuhk03", cuhk03.READER),
    ("dgmarket", dgmarket.READER),
    ("viper", viper.READER),
    ("prid", prid.READER),
    ("grid", grid.READER),
    ("ilids", ilids.READER),
    ("cuhk02", cuhk02.READER),
    ("cuhk_sysu", cuhk_sysu.READER),
    ("cion_al", cion_al.READER),
    ("luperson", luperson.READER),
    ("luperson_nl", luperson_nl.READER),
    ("synthetic", synthetic.READER),
    ("hf", hf.READER),
    ("folder", folder.READER),
    ("tracklets", tracklets.READER),
    ("csv", csv.READER),
):
    _READERS.add(_name, _reader)


def list_datasets(pattern: str = "*") -> list[str]:
    """Names of the data sets that `load_dataset` can read, filtered by a shell pattern."""
    return _READERS.names(pattern)


def dataset_info(name: str) -> Reader:
    """How the data set called `name` is read: what it is, its layout, variants and published figures.

    Raises:
        UnknownDatasetError: No data set has this name; says the closest ones.
    """
    return _READERS[name]


def load_dataset(spec: str | os.PathLike[str] | ReIDDataset) -> ReIDDataset:
    """Read a data set's records; images are opened later.

    Args:
        spec: ``"name"`` (looked for below ``$REIDZOO_DATA``), ``"name:/path"``, a `Path` whose layout is recognised,
            or a data set, which is returned as it is. Names: `list_datasets`. Some have variants: ``"name@variant"``;
            ``"name@all"`` trains on all splits. ``"a+b"`` joins training sets, see `reidzoo.data.combine`.

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
        return _read(_recognise(path), "", path)
    parts = [_parse(part) for part in summands(spec, _READERS)]  # a wrong name is said before anything is read
    data = [_read(*part) for part in parts]
    return combine(data) if len(data) > 1 else data[0]


def load_splits(spec: str) -> list[ReIDDataset]:
    """Read all ten splits of a data set whose protocol averages over them, like VIPeR's.

    Args:
        spec: ``"name"`` or ``"name:/path"``, as for `load_dataset`.

    Raises:
        DataError: The data set has no such splits, or one of them is asked for by name; or as from `load_dataset`.
    """
    name, variant, path = _parse(spec)
    if variant or _READERS[name].variants != _TEN_SPLITS:
        known = ", ".join(n for n in _READERS if _READERS[n].variants == _TEN_SPLITS)
        raise DataError(
            f"{spec!r} is one split, which load_dataset reads. Data sets with ten, to be named without @: {known}."
        )
    with _each_warning_once():
        return [_read(name, split, path) for split in _TEN_SPLITS]


def _parse(spec: str) -> tuple[str, str, Path]:
    """Name, variant and place of a single data set."""
    name, colon, path_text = spec.partition(":")
    name, _, variant = name.partition("@")
    if os.path.isabs(spec) or (len(name) == 1 and colon):  # a bare path; C: is a drive
        raise UnknownDatasetError(
            f"{spec!r} is a path without the name of its layout. Write it as <layout>:{spec}, for example "
            f"folder:{spec}. Layouts: {', '.join(list_datasets())}."
        )
    needs_path = _READERS[name].needs_path
    if not path_text and (colon or needs_path):
        raise DataError(f"{spec!r} names no path. Write it as {name}:/path/to/the/data.")
    # Readers look for their folder below the one they are given.
    place = Path(path_text) if _READERS[name].hub else _absolute(path_text or _env.data_root())
    return name, variant, place


def _read(name: str, variant: str, path: Path) -> ReIDDataset:
    reader = _READERS[name]
    if variant == "all":
        return whole(_read(name, "", path))
    if variant and variant not in reader.variants:
        variants = (*reader.variants, "all")
        known = ", ".join(f"{name}@{v}" for v in variants)
        raise UnknownDatasetError(
            f"The data set {name!r} has no variant {variant!r}.{did_you_mean(variant, variants)} Known: {known}."
        )
    variant = variant or (reader.variants[0] if reader.variants else "")
    data = reader.read(path, variant) if reader.variants else reader.read(path)
    # Drawn people, or identities that `reidzoo seek` found, are no copy of the set whose layout they have.
    ours = any((data.root / name).exists() for name in ("synthetic.json", "seek.json"))
    if not ours and (found := differences(data, reader.published.get(variant, {}))):
        _logger.warning("%s at %s is not the published set: %s.", name, data.root, "; ".join(found))
    return data


@contextmanager
def _each_warning_once() -> Iterator[None]:
    """Let the readers say the same thing once."""
    said: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return message not in said and not said.add(message)  # type: ignore[func-returns-value]

    loggers = [logging.getLogger(f"{__name__}{module}") for module in ("", "._scan", "._splits", ".ilids")]
    for logger in loggers:
        logger.addFilter(is_new)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_new)


def _absolute(path: str | Path) -> Path:
    return Path(path).expanduser().absolute()


def _recognise(path: Path) -> str:
    if path.is_file() and path.suffix.lower() == ".csv":
        return "csv"
    if not path.is_dir():
        raise DataNotFoundError(
            f"{path} is neither a folder nor a .csv file. Known layouts: {', '.join(list_datasets())}."
        )
    if any((path / name).exists() for name in cion_al.ANNOTATIONS):
        return "cion_al"
    if (path / "list_train.txt").exists():
        return "msmt17"
    if (path / "synthetic.csv").exists():
        return "synthetic"
    return "market1501" if (path / "bounding_box_train").exists() else "folder"

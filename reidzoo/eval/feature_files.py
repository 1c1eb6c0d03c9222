"""Features on disk: ``X.npy`` with the numbers, ``X.ids.csv`` with what each row is, ``X.json`` with how it was made.

While they are being made they lie in the folder ``X.npy.part``, with a byte per image that says whether its row is
there: whoever is told to make the same file goes on with what is missing.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from reidzoo._files import atomic
from reidzoo.data.records import Records
from reidzoo.errors import ConfigError, DataError, DataNotFoundError

_EVERY = 10.0  # seconds between the moments up to which nothing is lost, even by a power cut
_SAMPLES = 64  # of each tensor, for the fingerprint


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Features with what they belong to.

    Attributes:
        values: (N, D) real numbers; of an ``.npy`` file a read-only memory map.
        records: Path, identity and camera of each row.
        made_by: How they were made: model, fingerprint of its weights, views; {} where the file does not say.
    """

    values: NDArray[Any]
    records: Records
    made_by: dict[str, Any]


def load_features(path: str | Path) -> FeatureSet:
    """Read features that `extract_features` or ``reidzoo extract`` wrote.

    Args:
        path: ``X.npy``, with ``X.ids.csv`` beside it, or ``X.npz`` with ``features``, ``paths``, ``pids``, ``camids``.

    Raises:
        DataNotFoundError: There is no such file, or an ``.npy`` without its ids.
        DataError: The file holds something else.
    """
    path = Path(path)
    if not path.is_file():
        unfinished = _part(path).exists()
        hint = " Its making was stopped: type the same command again, it goes on." if unfinished else ""
        raise DataNotFoundError(f"There is no feature file {path}.{hint}")
    try:
        found = _read_npz(path) if path.suffix == ".npz" else _read_npy(path)
    except (KeyError, ValueError, EOFError) as e:
        if isinstance(e, DataError):
            raise
        raise DataError(f"{path} is no feature file of reidzoo ({e}). Make one with: reidzoo extract") from e
    if found.values.ndim != 2 or len(found.values) != len(found.records):
        raise DataError(
            f"{path} holds an array of shape {found.values.shape} for {len(found.records)} images; expected one row "
            "per image."
        )
    return found


def save_features(path: Path, values: NDArray[Any], records: Records, made_by: dict[str, Any]) -> None:
    """Write one ``.npz`` file with features (N, D) and what they belong to, whole or not at all."""
    columns = {"paths": np.array(list(records.path)), "pids": records.pid, "camids": records.camid}
    with atomic(path) as temporary, temporary.open("wb") as f:
        np.savez(f, features=values, made_by=json.dumps(made_by), **columns, **records.extras)  # type: ignore[arg-type]


def ids_file(path: Path) -> Path:
    """Where the ids of the rows of `path` are."""
    return path.with_suffix(".ids.csv")


def check_same_model(query: FeatureSet, gallery: FeatureSet) -> None:
    """Raise `DataError` if the files say that different networks, or one in different ways, made them."""
    for key in ("weights", "model", "dim", "flip", "scales", "transform"):
        a, b = query.made_by.get(key), gallery.made_by.get(key)
        if a is not None and b is not None and a != b:
            raise DataError(
                f"Query and gallery features do not belong together: {key} is {a!r} for the query and {b!r} for the "
                "gallery. Extract both with the same model and settings."
            )


def fingerprint(model: nn.Module) -> str:
    """Tell weights apart: 16 hexadecimal digits from the names, shapes and 64 evenly spread values of every tensor."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        flat = tensor.detach().reshape(-1)
        some = flat[:: max(1, len(flat) // _SAMPLES)].cpu()
        values = (some.double() if some.is_floating_point() else some).numpy()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode() + np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()[:16]


class FeatureWriter:
    """``X.npy`` in the making; several ranks may write to it, each its own rows.

    Args:
        path: The file to make, ending in ``.npy``.
        records: The images.
        made_by: What the features depend on, as JSON knows it. A file that depends on something else is refused.
    """

    def __init__(self, path: Path, records: Records, made_by: dict[str, Any]) -> None:
        if path.suffix != ".npy":
            raise ConfigError(f"out is {path}; expected a name that ends in .npy.")
        self.path, self.records = path, records
        self.folder = _part(path)
        names = hashlib.sha256("\n".join(records.path).encode()).hexdigest()[:16]
        self.made_by: dict[str, Any] = json.loads(json.dumps({**made_by, "images": len(records), "names": names}))

    def is_done(self, *, overwrite: bool = False) -> bool:
        """Whether `path` is there and holds just these features.

        Raises:
            ConfigError: It holds others, and `overwrite` is False.
        """
        if not self.path.exists() or overwrite:
            return False
        found = _read_json(self.path.with_suffix(".json"))
        if found == self.made_by:
            return True
        raise ConfigError(
            f"{self.path} exists and holds other features ({_difference(found, self.made_by)}). Give another name, or "
            "say overwrite (overwrite=True, --overwrite)."
        )

    def begin(self) -> None:
        """Make the unfinished file, or keep the one that is there if it is of these features. Called on one rank."""
        if self.folder.exists():
            if _read_json(self.folder / "made_by.json") == self.made_by and (self.folder / "features.npy").exists():
                return
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        shape = (self.made_by["images"], self.made_by["dim"])
        np.lib.format.open_memmap(self.folder / "features.npy", "w+", self.made_by.get("dtype", "float32"), shape)
        (self.folder / "done").write_bytes(bytes(shape[0]))
        _reserve(self.folder / "features.npy")
        with atomic(self.folder / "made_by.json") as temporary:
            temporary.write_text(json.dumps(self.made_by))

    def open(self) -> NDArray[np.int64]:
        """Open the unfinished file on this rank; return the rows that are missing."""
        self._values = np.lib.format.open_memmap(self.folder / "features.npy", "r+")
        self._done = np.memmap(self.folder / "done", np.uint8, "r+")
        self._waiting: list[NDArray[np.int64]] = []
        self._saved = time.monotonic()
        return np.flatnonzero(self._done == 0)

    def write(self, rows: NDArray[np.int64], values: NDArray[np.float32]) -> None:
        """Put in the features (n, D) of these rows.

        Raises:
            DataError: One is too large for the file's numbers.
        """
        if (largest := float(np.abs(values).max(initial=0))) > float(np.finfo(self._values.dtype).max):
            raise DataError(f"A feature has the value {largest:.3g}, too large for float16. Write float32 features.")
        self._values[rows] = values
        self._waiting.append(rows)
        if time.monotonic() - self._saved > _EVERY:
            self.flush()

    def flush(self) -> None:
        """Mark what was written as done, once it is on disk."""
        if self._waiting:
            self._values.flush()
            self._done[np.concatenate(self._waiting)] = 1
            self._done.flush()
        self._waiting, self._saved = [], time.monotonic()

    def finish(self) -> None:
        """Give the finished file its name, with its ids beside it. Called on one rank, when all have flushed."""
        self.path.with_suffix(".json").unlink(missing_ok=True)  # while it is not there, nobody takes the rest as whole
        with atomic(ids_file(self.path)) as temporary, temporary.open("w", newline="", encoding="utf-8") as f:
            extras = {k: v for k, v in self.records.extras.items() if k not in ("path", "pid", "camid")}
            table = csv.writer(f)
            table.writerow(["path", "pid", "camid", *extras])
            columns = (self.records.pid.tolist(), self.records.camid.tolist(), *(v.tolist() for v in extras.values()))
            table.writerows(zip(self.records.path, *columns, strict=True))
        (self.folder / "features.npy").replace(self.path)
        with atomic(self.path.with_suffix(".json")) as temporary:
            temporary.write_text(json.dumps(self.made_by, indent=1) + "\n")
        shutil.rmtree(self.folder)


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _reserve(file: Path) -> None:
    """Take the room now: on a full disk, writing to a memory map would end the process without a word."""
    if hasattr(os, "posix_fallocate"):
        with file.open("r+b") as f:
            os.posix_fallocate(f.fileno(), 0, file.stat().st_size)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    if not found:
        return "it does not say how they were made"
    keys = [key for key in wanted if found.get(key) != wanted[key]]
    return ", ".join(f"{key}: {found.get(key)} there, {wanted[key]} wanted" for key in keys)


def _read_npy(path: Path) -> FeatureSet:
    names = ids_file(path)
    if not names.exists():
        raise DataNotFoundError(f"{path} has no {names.name} beside it, which says what its rows are.")
    with names.open(newline="", encoding="utf-8") as f:
        header, *rows = csv.reader(f)
    columns = dict(zip(header, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(header, ())
    numbers = {key: np.array([int(v) for v in columns.pop(key)], np.int64) for key in ("pid", "camid")}
    records = Records.from_columns(columns.pop("path"), **numbers, **columns)
    return FeatureSet(np.load(path, mmap_mode="r"), records, _read_json(path.with_suffix(".json")))


def _read_npz(path: Path) -> FeatureSet:
    with np.load(path) as saved:
        records = Records.from_columns(saved["paths"].tolist(), saved["pids"], saved["camids"])
        made_by = json.loads(str(saved["made_by"])) if "made_by" in saved else {}
        return FeatureSet(saved["features"], records, made_by)

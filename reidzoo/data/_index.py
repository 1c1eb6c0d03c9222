"""Large data sets are listed once. Their columns are kept in files, and loading them again maps these files.

    $REIDZOO_HOME/index/<reader>-<hash of the place>/<hash of the state>/index.json, path.npy, offsets.npy, pid.npy, ...

The state is the annotation file's size and mtime and the mtimes of the image folders: when one changes, the list is
made anew. An annotation file that was only copied or touched is recognised by its SHA-256. An index appears whole or
not at all; processes that want the same one wait for the first. Where the home folder cannot be written, the index is
kept in a temporary folder until the process ends.
"""

from __future__ import annotations

import atexit
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from reidzoo import _env
from reidzoo._files import age, settle, sha256
from reidzoo._logging import get_logger
from reidzoo.data._columns import PathColumn, map_array
from reidzoo.data.records import Records
from reidzoo.errors import DataError, StoreError

try:
    import fcntl
except ImportError:  # Windows: processes that want the same index each make it, and the first one's is kept
    fcntl = None  # type: ignore[assignment]

_logger = get_logger(__name__)
_FORMAT = 1
_META = "index.json"
_private: dict[Path, Path] = {}  # indexes in temporary folders, by where they should be


class IndexWriter:
    """Writes the columns of an index block by block, so that memory does not grow with the number of images.

    Args:
        folder: Where the files go; it exists.
    """

    def __init__(self, folder: Path) -> None:
        self.rows = 0
        self._folder = folder
        self._notes: list[str] = []
        self._constants: dict[str, int] = {}
        self._columns: dict[str, _Column] = {}
        self._column("offsets", np.int64).append(np.zeros(1, dtype=np.int64))
        self._bytes = 0

    def add(self, paths: Sequence[str], **columns: Sequence[int] | NDArray[np.int64] | int) -> None:
        """Append rows.

        Args:
            paths: Relative to the data set's root.
            **columns: pid and camid, and any others: one integer per path, or one for all rows of the index.
        """
        encoded = [os.fsencode(path) for path in paths]
        ends = self._bytes + np.cumsum([len(path) for path in encoded], dtype=np.int64)
        self._column("path", np.uint8).append(np.frombuffer(b"".join(encoded), dtype=np.uint8))
        self._column("offsets", np.int64).append(ends)
        for name, values in columns.items():
            if isinstance(values, int):
                self._constants[name] = values
            else:
                self._column(name, np.int64).append(np.asarray(values, dtype=np.int64))
        self.rows += len(paths)
        self._bytes = int(ends[-1]) if len(ends) else self._bytes

    def drop(self, column: str) -> None:
        """Leave out a column that some rows have no value for."""
        if column in self._columns:
            self._columns.pop(column).file.close()

    def skip(self, where: Path, count: int, example: str, reason: str) -> None:
        """Say that `count` entries of `where` are left out: now, and whenever the index is loaded."""
        if count:
            self._notes.append(f"{where}: {count:,} entries left out, for example {example!r}: {reason}.")

    def note(self, text: str) -> None:
        """Warn of `text` now and whenever the index is loaded."""
        self._notes.append(text)

    def close(self, **about: Any) -> None:
        """Finish the files; `about` goes into the description."""
        for column in self._columns.values():
            column.close()
        meta = {"rows": self.rows, "columns": list(self._columns), "constants": self._constants, "notes": self._notes}
        (self._folder / _META).write_text(json.dumps({**about, **meta}), "utf-8")

    def abort(self) -> None:
        """Close the files without finishing them."""
        for column in self._columns.values():
            column.file.close()

    def _column(self, name: str, dtype: type[np.generic]) -> _Column:
        if name not in self._columns:
            self._columns[name] = _Column(self._folder / f"{name}.npy", np.dtype(dtype))
        return self._columns[name]


class _Column:
    """An ``.npy`` file that grows: numpy leaves room in the header for the final length."""

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self.file: IO[bytes] = path.open("wb")
        self._dtype, self._length = dtype, 0
        self._header()

    def _header(self) -> None:
        about = {"descr": self._dtype.str, "fortran_order": False, "shape": (self._length,)}
        np.lib.format.write_array_header_1_0(self.file, about)

    def append(self, values: NDArray[Any]) -> None:
        self.file.write(np.ascontiguousarray(values, dtype=self._dtype).data)
        self._length += len(values)

    def close(self) -> None:
        self.file.seek(0)
        self._header()
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()


def indexed(
    reader: str,
    root: Path,
    build: Callable[[IndexWriter], None],
    *,
    annotation: Path | None = None,
    folders: Iterable[Path] = (),
) -> Records:
    """Load the records of a large data set from its index; make that first where there is none.

    Args:
        reader: Name of the reader, with what decides what it reads: its variant, and a number that goes up when it
            reads the same files differently.
        root: Folder that the index' paths count from.
        build: Lists the images. Whatever it raises is passed on and leaves no index.
        annotation: File that decides the list.
        folders: Folders whose entries decide the list.

    Raises:
        DataError: There is no image, or `annotation` changed while it was read.
        StoreError: The disk is full.
    """
    place = _env.home().absolute() / "index" / f"{reader}-{_digest(str(root), str(annotation or ''))}"
    state = _state(annotation, folders)
    folder = place / _digest(json.dumps(state))
    records = _open(folder, root) or _open(_private.get(folder, folder), root) or _open_same(place, state, root)
    if records is None:
        with _writable(place) as parent:
            records = _open(folder, root)  # another process may have made it meanwhile
            if records is None:
                made = _make(parent, folder, build, state, annotation, root)
                if _state(annotation, folders) != state:
                    shutil.rmtree(made)
                    raise DataError(f"{annotation or root} changed while it was read. Load the data set again.")
                records = _open(made, root)
    if records is None:
        raise DataError(f"The index {folder} of {root} cannot be read back. Remove it: rm -r {place}")
    return records


def _state(annotation: Path | None, folders: Iterable[Path]) -> dict[str, Any]:
    """Describe what an index is made from: equal states, equal lists."""
    stamps = hashlib.sha256()
    for folder in folders:
        stamps.update(f"{folder} {folder.stat().st_mtime_ns}\n".encode(errors="surrogateescape"))
    found = annotation.stat() if annotation else None
    return {
        "format": _FORMAT,
        "folders": stamps.hexdigest(),
        "size": found and found.st_size,
        "mtime": found and found.st_mtime_ns,
        "annotation": str(annotation or ""),
    }


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()[:16]


def _open(folder: Path, root: Path) -> Records | None:
    """Map the columns in `folder`; None if there is no index, or a damaged one."""
    try:
        meta = json.loads((folder / _META).read_text("utf-8"))
        rows: int = meta["rows"]
        columns = {name: map_array(folder / f"{name}.npy") for name in meta["columns"]}
        columns |= {name: np.broadcast_to(np.int64(value), (rows,)) for name, value in meta["constants"].items()}
        path, offsets = columns.pop("path"), columns.pop("offsets")
        if offsets[-1] != len(path):
            return None
        prefix = os.fsencode(root) + os.fsencode(os.sep)
        records = Records(PathColumn(path, offsets, prefix), columns.pop("pid"), columns.pop("camid"), columns)
    except (OSError, ValueError, KeyError):
        return None
    for note in meta["notes"]:
        _logger.warning("%s", note)
    return records


def _open_same(place: Path, state: dict[str, Any], root: Path) -> Records | None:
    """Open an index of an annotation file with the same content, which was copied over or touched since."""
    checksum = ""
    for meta_file in sorted(place.glob(f"*/{_META}")) if state["annotation"] else ():
        with suppress(OSError, ValueError):
            meta = json.loads(meta_file.read_text("utf-8"))
            if all(meta[key] == state[key] for key in ("format", "folders", "size")):
                checksum = checksum or sha256(Path(state["annotation"]))
                if meta["sha256"] == checksum:
                    return _open(meta_file.parent, root)
    return None


@contextmanager
def _writable(place: Path) -> Iterator[Path]:
    """Yield `place`, locked against other processes, or a temporary folder where it cannot be written."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        lock = (place / ".lock").open("ab")
    except OSError as e:
        _logger.warning(
            "The index of this data set cannot be kept (%s) and is made anew by every process. "
            "Set REIDZOO_HOME to a folder that can be written.", e
        )  # fmt: skip
        temporary = Path(tempfile.mkdtemp(prefix="reidzoo-index-"))
        atexit.register(_remove, temporary, os.getpid())
        yield temporary
        return
    with lock:
        if fcntl is not None:
            with suppress(OSError):  # a network file system without locks: as on Windows
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield place


def _remove(folder: Path, pid: int) -> None:
    if os.getpid() == pid:  # not in a forked child
        shutil.rmtree(folder, ignore_errors=True)


def _make(
    parent: Path,
    folder: Path,
    build: Callable[[IndexWriter], None],
    state: dict[str, Any],
    annotation: Path | None,
    root: Path,
) -> Path:
    """Write the index into `parent`, under its final name; outdated ones beside it go."""
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=parent))
    try:
        writer = IndexWriter(partial)
        try:
            build(writer)
            if not writer.rows:
                raise DataError(f"There is no image in {root} that can be used.")
            writer.close(**state, sha256=sha256(annotation) if annotation else None)
        finally:
            writer.abort()
        final = parent / folder.name
        for old in parent.iterdir():  # outdated ones, a damaged one of this name, what a killed process left
            recent = old.name.startswith(".partial-") and age(old) < 86400
            if old.is_dir() and not recent:
                shutil.rmtree(old, ignore_errors=True)
        settle(partial, final)
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT) and not isinstance(e, DataError):
            raise StoreError(
                f"The disk is full: the index of {root} does not fit into {parent}. Free some space, or set "
                f"REIDZOO_HOME to a folder on another disk."
            ) from e
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if parent != folder.parent:
        _private[folder] = final
    return final

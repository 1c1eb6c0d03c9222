"""Columns without a Python object per row, and how they go to other processes: as the name of a file, not as a copy."""

from __future__ import annotations

import os
import tempfile
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from mmap import mmap
from multiprocessing import context
from pathlib import Path
from typing import Any, TypeGuard, overload

import numpy as np
from numpy.typing import NDArray

from reidzoo.errors import DataNotFoundError

IntArray = NDArray[np.int64]

_BLOCK = 1 << 16  # rows gathered at a time: bounds the index arrays of a selection to a few MB
_LARGE = 1 << 20  # bytes from which an array is worth a file


def map_array(file: str | Path) -> NDArray[Any]:
    """Map an ``.npy`` file read-only: its pages are read when they are needed, and shared between processes.

    Raises:
        DataNotFoundError: There is no such file.
    """
    try:
        return np.asarray(np.load(file, mmap_mode="r"))
    except FileNotFoundError as e:
        raise DataNotFoundError(
            f"{file}, which holds a column of a data set, is gone. Load the data set again to make it anew."
        ) from e


def pack(column: NDArray[Any]) -> tuple[Any, ...]:
    """What to pickle for `column`: the name of a file that holds it, the one value that it repeats, or itself.

    A process that is started (not forked) gets large columns as files: all loader processes map the same one.
    """
    if _is_map(column.base) and column.__array_interface__ == column.base.__array_interface__:
        return "file", str(column.base.filename)
    if len(column) > 1 and column.strides == (0,):
        return "constant", column[0], len(column)
    if column.nbytes > _LARGE and context.get_spawning_popen() is not None:
        with suppress(OSError):  # no room for it
            return "file", _spill(column)
    return "array", column


def _is_map(array: Any) -> TypeGuard[np.memmap[Any, Any]]:
    """Whether `array` is all of an ``.npy`` file that is mapped to be read, not a part of one."""
    whole = isinstance(array, np.memmap) and isinstance(array.base, mmap)
    return whole and array.mode == "r" and str(array.filename).endswith(".npy")


def unpack(packed: tuple[Any, ...]) -> NDArray[Any]:
    """Give back the column that `pack` was given."""
    kind, *what = packed
    if kind == "file":
        return map_array(what[0])
    return np.broadcast_to(what[0], (what[1],)) if kind == "constant" else what[0]


_spilled: dict[int, str] = {}  # temporary files of large columns, by the column's id


def _spill(column: NDArray[Any]) -> str:
    """Write `column` to a temporary file that lives as long as the column does in this process."""
    if id(column) not in _spilled:
        handle, name = tempfile.mkstemp(prefix="reidzoo-", suffix=".npy")
        try:
            with open(handle, "wb") as file:
                np.save(file, column)
        except OSError:
            os.unlink(name)
            raise
        _spilled[id(column)] = name
        weakref.finalize(column, _forget, id(column), os.getpid())
    return _spilled[id(column)]


def _forget(key: int, pid: int) -> None:
    name = _spilled.pop(key, "")
    if os.getpid() == pid:  # not in a forked child
        with suppress(OSError):
            os.unlink(name)


class PathColumn(Sequence[str]):
    """Strings in one byte buffer: string i is ``prefix + buffer[offsets[i]:offsets[i + 1]]``.

    File names are bytes to the operating system and need not be valid UTF-8; they make the round trip unchanged.

    Args:
        buffer: (total bytes,) uint8.
        offsets: (N + 1,) int64, not decreasing, from 0 to the length of `buffer`.
        prefix: what all strings start with.
    """

    def __init__(self, buffer: NDArray[np.uint8], offsets: IntArray, prefix: bytes = b"") -> None:
        self._buffer, self._offsets, self._prefix = buffer, offsets, prefix

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpack_paths, (pack(self._buffer), pack(self._offsets), self._prefix)

    @classmethod
    def from_strings(cls, strings: Iterable[str | os.PathLike[str]]) -> PathColumn:
        """Pack `strings` in their order."""
        buffer, ends = bytearray(), array("q", [0])
        for string in strings:
            buffer += os.fsencode(string)
            ends.append(len(buffer))
        return cls(np.frombuffer(buffer, dtype=np.uint8), np.frombuffer(ends, dtype=np.int64))

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> PathColumn: ...
    def __getitem__(self, index: int | slice) -> str | PathColumn:
        if isinstance(index, slice):
            return self.select(np.arange(len(self))[index])
        i = range(len(self))[index]  # negative indices and IndexError as for any sequence
        return os.fsdecode(self._prefix + self._buffer[self._offsets[i] : self._offsets[i + 1]].tobytes())

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _BLOCK):
            edges = self._offsets[start : start + _BLOCK + 1].tolist()
            block = self._buffer[edges[0] : edges[-1]].tobytes()
            for a, b in pairwise(edges):
                yield os.fsdecode(self._prefix + block[a - edges[0] : b - edges[0]])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PathColumn):
            return NotImplemented
        if self._prefix != other._prefix:
            return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))
        return np.array_equal(self._offsets, other._offsets) and np.array_equal(self._buffer, other._buffer)

    __hash__ = None  # type: ignore[assignment]  # compared by content, like a list

    def __repr__(self) -> str:
        return f"PathColumn({len(self)} paths, {self._buffer.nbytes + self._offsets.nbytes} bytes)"

    def select(self, index: IntArray) -> PathColumn:
        """Strings at the positions `index`, in that order, in a new buffer."""
        starts, lengths = self._offsets[index], self._offsets[index + 1] - self._offsets[index]
        offsets = np.zeros(len(index) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        buffer = np.empty(offsets[-1], dtype=np.uint8)
        for a in range(0, len(index), _BLOCK):
            b = min(a + _BLOCK, len(index))
            source = np.arange(offsets[a], offsets[b]) + np.repeat(starts[a:b] - offsets[a:b], lengths[a:b])
            buffer[offsets[a] : offsets[b]] = self._buffer[source]
        return PathColumn(buffer, offsets, self._prefix)


def _unpack_paths(buffer: tuple[Any, ...], offsets: tuple[Any, ...], prefix: bytes) -> PathColumn:
    return PathColumn(unpack(buffer), unpack(offsets), prefix)

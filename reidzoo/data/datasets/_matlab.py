"""MATLAB 5 files (.mat), as far as protocols of data sets need them: numbers, text, cells and structures.

Written here because scipy's reader takes the whole process down on some damaged files. Format: The MathWorks, "MAT-File
Format", version 5.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reidzoo.errors import DataError, DataNotFoundError

_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _CHAR = 1, 2, 4
_DTYPES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_MOST_BYTES = 1 << 30  # of a variable when it is uncompressed
_MOST_DEPTH = 16

Element = tuple[int, memoryview]  # type and content


def read_mat(file: Path, names: Collection[str]) -> dict[str, Any]:
    """Read variables of a MATLAB 5 file.

    Args:
        file: the file.
        names: the variables to read.

    Returns:
        Those of `names` that are there: numbers as arrays, text as str (with several rows: a list of str), cells as
        object arrays, a structure as a dict, several as an object array of dicts.

    Raises:
        DataNotFoundError: There is no such file.
        DataError: `file` is damaged, of another version, or has something in a variable that is not read here.
    """
    if not file.is_file():
        raise DataNotFoundError(f"There is no file {file}.")
    try:
        content = file.read_bytes()
        if content[:8] == b"\x89HDF\r\n\x1a\n" or content[124:128] in (b"\x00\x02IM", b"\x02\x00MI"):
            raise ValueError("it is of version 7.3")
        if content[124:128] not in (b"\x00\x01IM", b"\x01\x00MI"):
            raise ValueError("it has no such header")
        reader = _Reader("<" if content[126:128] == b"IM" else ">")
        return dict(reader.variables(memoryview(content)[128:], names))
    except (ValueError, OverflowError, MemoryError, OSError, struct.error, zlib.error) as e:
        raise DataError(f"{file} cannot be read as a MATLAB 5 file: {e}. Get the file again.") from e


class _Reader:
    """Elements of the format in one byte order (``<`` or ``>``)."""

    def __init__(self, order: str) -> None:
        self.order = order

    def variables(self, content: memoryview, names: Collection[str]) -> Iterator[tuple[str, Any]]:
        for kind, data in self.elements(content):
            if kind == _COMPRESSED:
                kind, data = self._uncompressed(data)
            if kind == _MATRIX and data:
                parts = self.elements(data)
                flags, shape, name = self._head(parts)
                if name in names:
                    yield name, self._value(flags, shape, parts, 0)

    def elements(self, content: memoryview) -> Iterator[Element]:
        at = 0
        while at + 8 <= len(content):
            kind, size = struct.unpack_from(self.order + "II", content, at)
            if kind >> 16:  # up to 4 bytes are kept in the tag
                kind, size, start, after = kind & 0xFFFF, kind >> 16, at + 4, at + 8
                if size > 4:
                    raise ValueError(f"a small element of {size} bytes")
            else:
                start = at + 8
                after = start + size + (0 if kind == _COMPRESSED else -size % 8)
            if start + size > len(content):
                raise ValueError("it ends too early")
            yield kind, content[start : start + size]
            at = after

    def _uncompressed(self, data: memoryview) -> Element:
        stream = zlib.decompressobj()
        content = stream.decompress(data, _MOST_BYTES)
        if not stream.eof:
            raise ValueError(f"a variable is cut off, or larger than {_MOST_BYTES} bytes")
        return next(self.elements(memoryview(content)), (0, memoryview(b"")))

    def _numbers(self, element: Element) -> NDArray[Any]:
        kind, data = element
        if kind not in _NUMBERS:
            raise ValueError(f"type {kind} where numbers should be")
        return np.frombuffer(data, dtype=self.order + _NUMBERS[kind])

    def _text(self, element: Element) -> str:
        kind, data = element
        if kind not in _TEXTS:
            raise ValueError(f"type {kind} where text should be")
        wide = _TEXTS[kind] in ("utf-16", "utf-32")
        return bytes(data).decode(_TEXTS[kind] + ("" if not wide else "-le" if self.order == "<" else "-be"))

    def _head(self, parts: Iterator[Element]) -> tuple[int, tuple[int, ...], str]:
        """Class, shape and name of a matrix."""
        flags, shape = self._numbers(_next(parts)), tuple(int(n) for n in self._numbers(_next(parts)))
        if not flags.size or len(shape) < 2 or min(shape) < 0:
            raise ValueError(f"an array of shape {shape}")
        return int(flags[0]) & 0xFF, shape, self._text(_next(parts))

    def _matrix(self, element: Element, depth: int) -> Any:
        kind, data = element
        if kind != _MATRIX or depth > _MOST_DEPTH:
            raise ValueError(f"type {kind} where an array should be, {depth} arrays deep")
        if not data:
            return np.empty((0, 0))
        parts = self.elements(data)
        flags, shape, _ = self._head(parts)
        return self._value(flags, shape, parts, depth)

    def _value(self, kind: int, shape: tuple[int, ...], parts: Iterator[Element], depth: int) -> Any:
        if kind == _CELL:
            return _arrange([self._matrix(part, depth + 1) for part in parts], shape)
        if kind == _STRUCT:
            width = int(self._numbers(_next(parts)).reshape(-1)[:1].sum())
            text = self._text(_next(parts))
            fields = [text[i : i + width].partition("\0")[0] for i in range(0, len(text), width)] if width > 0 else []
            values = [self._matrix(part, depth + 1) for part in parts]
            n = len(fields)
            rows = [dict(zip(fields, values[i : i + n], strict=True)) for i in range(0, len(values), n or 1)]
            return rows[0] if len(rows) == 1 else _arrange(rows, shape)
        if kind == _CHAR:
            text = self._text(_next(parts, (1, memoryview(b""))))
            return text if shape[0] <= 1 or not text else ["".join(row) for row in _arrange(list(text), shape)]
        if kind in _DTYPES:
            values_read = self._numbers(_next(parts)).astype(_DTYPES[kind])
            return values_read.reshape(shape, order="F")
        raise ValueError(f"an array of class {kind}, which is not read here")


def _next(parts: Iterator[Element], default: Element | None = None) -> Element:
    part = next(parts, default)
    if part is None:
        raise ValueError("an array ends too early")
    return part


def _arrange(values: list[Any], shape: tuple[int, ...]) -> NDArray[np.object_]:
    array = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        array[i] = value
    return array.reshape(shape, order="F")

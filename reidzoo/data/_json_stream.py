"""The entries of a large JSON list, one at a time: the file is never in memory as a whole."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reidzoo.errors import DataError

_PIECE = 1 << 20  # bytes read at a time
_LONGEST = 1 << 24  # characters of an entry; more than this is a damaged file
_SPACE = re.compile(r"[ \t\r\n]*")


def iter_json_list(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of the list that `file` (UTF-8) consists of.

    Raises:
        DataError: The file is no JSON list of objects, or ends too early; says after how many entries.
    """
    text, count = _Text(file), 0
    try:
        if text.take() != "[":
            raise ValueError("it does not start with '['")
        separator = "," if text.peek() != "]" else text.take()
        while separator == ",":
            if text.peek() != "{":
                raise ValueError(f"expected an object {{...}}, found {text.rest(20)!r}")
            yield text.object()
            count += 1
            separator = text.take()
        if separator != "]":
            raise ValueError(f"expected ',' or ']', found {separator!r}" if separator else "it ends early")
        if text.peek():
            raise ValueError(f"{text.rest(20)!r} follows the list")
    except ValueError as e:  # JSON and UTF-8 errors are among them
        raise DataError(
            f"{file} is not a JSON list of objects: {e}, after {count:,} entries. Expected [{{...}}, ...]. "
            f"If the file was downloaded or copied, it may be incomplete."
        ) from e


class _Text:
    """A window on the text of a file, from `position` on."""

    def __init__(self, file: Path) -> None:
        self.position = 0
        self._pieces = self._read(file)
        self._buffer = ""
        self._parse = json.JSONDecoder().raw_decode

    @staticmethod
    def _read(file: Path) -> Iterator[str]:
        decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        with file.open("rb") as stream:
            while piece := stream.read(_PIECE):
                yield decode(piece)
            yield decode(b"", final=True)

    def _more(self) -> bool:
        """Read on; False at the end of the file."""
        piece = next(self._pieces, None)
        if piece is not None:
            self._buffer, self.position = self._buffer[self.position :] + piece, 0
        return piece is not None

    def peek(self) -> str:
        """The next character that is no white space, which `position` then points to; empty at the end of the file."""
        while True:
            self.position = _SPACE.match(self._buffer, self.position).end()  # type: ignore[union-attr]
            if self.position < len(self._buffer):
                return self._buffer[self.position]
            if not self._more():
                return ""

    def take(self) -> str:
        """The same, and go behind it."""
        character = self.peek()
        self.position += len(character)
        return character

    def rest(self, length: int) -> str:
        """The next characters, for a message."""
        return self._buffer[self.position : self.position + length]

    def object(self) -> dict[str, Any]:
        """Parse the object that starts at `position`, and go behind it."""
        while True:
            try:
                value, self.position = self._parse(self._buffer, self.position)
                return value  # type: ignore[no-any-return]
            except json.JSONDecodeError as e:  # damaged, or the rest of it has not been read yet
                if len(self._buffer) - self.position > _LONGEST:
                    raise ValueError(f"{e.msg} in {self.rest(40)!r}...") from None
                if not self._more():
                    raise ValueError(f"{e.msg} in {self.rest(40)!r}...") from None
            except RecursionError:
                raise ValueError("an entry is nested too deeply") from None

"""Unpacking archives that somebody else made: nothing lands outside the folder, and nothing half done stays.

Every entry is written by us as a plain new file below a temporary folder, which gets its name when the whole archive
was read and its checksums were right. Entries are never trusted: not their names, sizes, modes or links.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import posixpath
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from reidzoo._files import settle
from reidzoo._logging import progress
from reidzoo.errors import DataError, DataNotFoundError

_PIECE = 1 << 20
_LARGEST_READ = 1 << 24  # tarfile asks for this much at once only where a header says so: names are short
_LEAST_LIMIT, _RATIO = 1 << 30, 20  # images hardly compress; annotations do
_MOST_FILES = 20_000_000
_END_OF_TAR = bytes(tarfile.BLOCKSIZE)
_KINDS = "zip, tar, tar.gz, tar.bz2 and tar.xz"
_DAMAGE = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, struct.error, OSError,
    ValueError, IndexError, OverflowError,
)  # fmt: skip


def extract_archive(
    archive: str | Path, out: str | Path, *, max_bytes: int | None = None, max_files: int = _MOST_FILES
) -> Path:
    """Unpack a zip or tar archive into a new folder, which appears when everything is in it.

    Refused, with nothing left behind: names that lead out of the folder (absolute, ``..``, drives), links to anything
    but a file of the archive (those become copies), devices and pipes, encrypted entries, two entries of one name,
    more bytes or files than allowed, and damaged or cut archives. File modes and owners are ignored.

    Args:
        archive: A .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz file; its content counts, not its name.
        out: The folder to make; it may exist if it is empty.
        max_bytes: Most bytes of all files together; by default 20 times the archive's size, and at least 1 GiB.
        max_files: Most files and folders.

    Returns:
        `out`.

    Raises:
        DataNotFoundError: There is no file `archive`.
        DataError: `out` holds something, or the archive is refused for one of the reasons above.
    """
    archive, root = Path(archive).expanduser(), Path(out).expanduser()
    if not archive.is_file():
        raise DataNotFoundError(f"There is no archive {archive}. Expected a {_KINDS} file.")
    _refuse_used(root)
    size = archive.stat().st_size
    limit = max(_LEAST_LIMIT, _RATIO * size) if max_bytes is None else max_bytes
    stage = _Stage(archive, root.absolute().parent / f".{root.name}.partial-{os.getpid()}", limit, max_files)
    shutil.rmtree(stage.root, ignore_errors=True)
    try:
        stage.root.mkdir(parents=True)
        with progress(desc=f"Extracting {archive.name}", total=size, unit="B", unit_scale=True) as bar:
            _unpack(stage, bar.update)
        stage.copy_links()
        if not stage.files:
            raise DataError(f"The archive {archive} holds no file.")
        if not settle(stage.root, root):
            _refuse_used(root)
    finally:
        shutil.rmtree(stage.root, ignore_errors=True)
    return root


def _refuse_used(root: Path) -> None:
    if os.path.lexists(root) and (root.is_symlink() or not root.is_dir() or any(root.iterdir())):
        raise DataError(
            f"{root} exists already, so nothing was unpacked. Name another folder, or remove it: rm -r {root}"
        )


def _unpack(stage: _Stage, advance: Callable[[float | None], Any]) -> None:
    with open(stage.archive, "rb") as raw:
        magic = raw.read(6)
    try:
        if magic.startswith(b"PK"):
            _unpack_zip(stage, advance)
        else:
            _unpack_tar(stage, magic, advance)
    except DataError:
        raise
    except _DAMAGE as e:
        if isinstance(e, OSError) and e.errno is not None:  # the disk's trouble, not the archive's
            raise
        raise DataError(
            f"The archive {stage.archive} is damaged, incomplete, or of another kind than {_KINDS} "
            f"({str(e) or type(e).__name__}). Download it again and compare its checksum."
        ) from e


def _unpack_zip(stage: _Stage, advance: Callable[[float | None], Any]) -> None:
    with zipfile.ZipFile(stage.archive) as file:
        for entry in file.infolist():
            mode = entry.external_attr >> 16
            if entry.is_dir():
                stage.folder(entry.filename)
            elif entry.flag_bits & 1:
                raise DataError(f"{stage.archive}: {entry.filename!r} is encrypted. Unpack it with its password.")
            elif stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFLNK):
                raise stage.refusal(entry.filename, "a device or pipe")
            else:
                try:
                    stream = file.open(entry)
                except NotImplementedError as e:
                    raise DataError(f"{stage.archive}: {entry.filename!r}: {e}. Unpack it with another program.") from e
                with stream:
                    if stat.S_ISLNK(mode):
                        stage.link(entry.filename, os.fsdecode(stream.read(4096)), beside=True)
                    else:
                        stage.file(entry.filename, stream)
            advance(entry.compress_size)


def _unpack_tar(stage: _Stage, magic: bytes, advance: Callable[[float | None], Any]) -> None:
    openers = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ", lzma.open))
    opener = next((opener for start, opener in openers if magic.startswith(start)), None)
    with open(stage.archive, "rb") as raw:
        stream: Any = _Metered(opener(raw) if opener else raw, 2 * stage.max_bytes + _LEAST_LIMIT, stage)
        done = 0
        with tarfile.open(fileobj=stream, mode="r:") as file:
            while (entry := file.next()) is not None:
                vars(file)["members"].clear()  # tarfile keeps them all, which takes gigabytes for millions of images
                if entry.isdir():
                    stage.folder(entry.name)
                elif entry.islnk() or entry.issym():
                    stage.link(entry.name, entry.linkname, beside=entry.issym())
                elif entry.isreg() and (content := file.extractfile(entry)) is not None:
                    stage.file(entry.name, content)
                else:
                    raise stage.refusal(entry.name, "a device or pipe")
                advance(raw.tell() - done)
                done = raw.tell()
        if stream.last != _END_OF_TAR:  # tarfile takes a broken header for the end
            raise EOFError("it has no end mark")
        while stream.read(_PIECE):  # up to the checksum behind the last block
            pass


class _Metered:
    """A decompressed stream that a header cannot make swallow memory, nor a bomb keep busy for ever."""

    def __init__(self, stream: Any, limit: int, stage: _Stage) -> None:
        self._stream, self._left, self._stage = stream, limit, stage
        self.last = b""

    def read(self, size: int) -> bytes:
        if size > _LARGEST_READ:
            raise DataError(f"{self._stage.archive} has a header of {size:,} bytes: it is no archive of images.")
        self.last = self._stream.read(size)
        self._left -= len(self.last)
        if self._left < 0:
            raise self._stage.too_large()
        return self.last

    def seek(self, position: int) -> int:
        return int(self._stream.seek(position))

    def tell(self) -> int:
        return int(self._stream.tell())


class _Stage:
    """The temporary folder: takes entries by the names that the archive gives them."""

    def __init__(self, archive: Path, root: Path, max_bytes: int, max_files: int) -> None:
        self.archive, self.root, self.max_bytes, self.max_files = archive, root, max_bytes, max_files
        self.files = self._entries = self._bytes = 0
        self._links: list[tuple[str, str, str]] = []

    def folder(self, name: str) -> None:
        """Make a folder."""
        self._count()
        self._make_folder(name, self._inside(name))

    def file(self, name: str, content: IO[bytes]) -> None:
        """Write a file that is not there yet."""
        self._count()
        inside = self._inside(name)
        self._make_folder(name, posixpath.dirname(inside))
        try:
            with open(self.root / inside, "xb") as target:
                while piece := content.read(_PIECE):
                    self._bytes += len(piece)
                    if self._bytes > self.max_bytes:
                        raise self.too_large()
                    target.write(piece)
        except (FileExistsError, IsADirectoryError):
            raise DataError(f"{self.archive} holds {name!r} twice (capitals may not count here).") from None
        self.files += 1

    def link(self, name: str, target: str, *, beside: bool) -> None:
        """Remember a link: a symbolic one counts from its own folder, a hard one from the root."""
        self._count()
        inside = self._inside(name)
        leads = posixpath.normpath(posixpath.join(posixpath.dirname(inside), target) if beside else target)
        if _leads_out(leads):
            raise self.refusal(name, f"a link out of the archive, to {target!r},")
        self._links.append((name, target, leads))

    def copy_links(self) -> None:
        """Put copies in the place of links; a link may point to another one."""
        while self._links:
            waiting = []
            for name, target, leads in self._links:
                if (self.root / leads).is_file():
                    with open(self.root / leads, "rb") as content:
                        self._entries -= 1  # counted when it was met
                        self.file(name, content)
                else:
                    waiting.append((name, target, leads))
            if len(waiting) == len(self._links):
                raise self.refusal(waiting[0][0], f"a link to {waiting[0][1]!r}, which is no file of the archive,")
            self._links = waiting

    def refusal(self, name: str, what: str) -> DataError:
        """What to raise about an entry that no archive of images has."""
        return DataError(
            f"{self.archive}: the entry {name!r} is {what} and not allowed. Nothing was unpacked. "
            f"Do not trust this file: get it from its authors."
        )

    def too_large(self) -> DataError:
        """What to raise when too much comes out."""
        return DataError(
            f"{self.archive} holds more than {self.max_bytes:,} bytes, so nothing was unpacked. "
            f"If that is right, allow more: --max-gb N."
        )

    def _count(self) -> None:
        self._entries += 1
        if self._entries > self.max_files:
            raise DataError(f"{self.archive} holds more than {self.max_files:,} entries, so nothing was unpacked.")

    def _inside(self, name: str) -> str:
        """Path below the root, with slashes; Windows' separators count everywhere, so that no system is fooled."""
        path = name.replace("\\", "/")
        if _leads_out(path) or "\0" in path:
            raise self.refusal(name, "a path that leads out of the folder")
        return posixpath.normpath(path)

    def _make_folder(self, name: str, inside: str) -> None:
        try:
            (self.root / inside).mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise DataError(f"{self.archive}: {name!r} needs a folder where the archive has a file.") from None


def _leads_out(path: str) -> bool:
    return not path or path.startswith("/") or ".." in path.split("/") or re.match(r"[A-Za-z]:", path) is not None

"""Files that appear whole or not at all, and their checksums."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; what was written there gets the final name when the block ends well.

    A kill at any moment leaves the old file or the new one under `path`, never a part. An error of the system that does
    not name the file names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as f:
            os.fsync(f.fileno())
        temporary.replace(path)
    except OSError as e:
        if e.errno and e.filename is None:  # nothing but what happened
            e.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def settle(made: Path, final: Path) -> bool:
    """Give a finished folder its name, unless another process has just given it to one of its own.

    Returns:
        Whether it is the one that has the name now; `made` is still there if not.
    """
    try:
        if final.exists():
            final.rmdir()  # if it is empty; not every system replaces a folder
        os.replace(made, final)
    except OSError:
        if not (final.is_dir() and any(final.iterdir())):
            raise
        return False
    return True


def age(path: Path) -> float:
    """Seconds since a file or folder was changed; 0 for one that another process has just moved away."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def sha256(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits; reads it in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()

"""The local store: one file per backbone under ``$REIDZOO_HOME/weights``.

``<name>.safetensors`` is a converted copy whose header says what it is, where it came from, and the checksum of its
content; ``<name>.link.json`` stands for a file of the user's that is read where it lies. Both appear and are replaced
in one step, so any number of processes may import and load at the same time without locks, and a store that cannot be
written can still be read.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from reidzoo import _env
from reidzoo._files import age, atomic, sha256
from reidzoo._logging import get_logger
from reidzoo.errors import CheckpointError, ConfigError, StoreError, WeightsNotFoundError
from reidzoo.models import list_models, model_info

_logger = get_logger(__name__)
_STALE_S = 3600.0  # a temporary file as old as this was left by a process that died


@dataclass(frozen=True)
class Entry:
    """Weights in the store.

    Attributes:
        name: The backbone.
        path: The file to load: in the store, or the user's own if `linked`.
        license: Whose terms it is under.
        source: The file that was imported.
        source_sha256: Checksum of that file.
        size: Bytes of `path` when it was imported.
        linked: Whether `path` is the user's file, unconverted.
        library_version: reidzoo's when it was imported.
    """

    name: str
    path: Path
    license: str
    source: str
    source_sha256: str
    size: int
    linked: bool
    library_version: str


def folder() -> Path:
    """Where the store is; it need not exist."""
    return _env.home() / "weights"


def find(name: str) -> Entry | None:
    """Return what the store has for a backbone, without reading tensors (and without importing torch).

    Args:
        name: A name or alias of `list_models`.

    Raises:
        CheckpointError: The stored file or its record is damaged.
        WeightsNotFoundError: A linked file is gone.
    """
    name = model_info(name).name
    copy, link = _copy(name), _link(name)
    if copy.is_file():
        header = _header(copy)
        return Entry(
            name=name,
            path=copy,
            license=header["license"],
            source=header["source"],
            source_sha256=header["source_sha256"],
            size=copy.stat().st_size,
            linked=False,
            library_version=header["reidzoo_version"],
        )
    if link.is_file():
        return _follow(link)
    return None


def entries() -> list[Entry]:
    """Everything in the store, by name. Raises what `find` raises."""
    return [entry for name in list_models() if (entry := find(name)) is not None]


def link(name: str, path: Path, *, license: str) -> Entry:
    """Register the user's own file for `name`; it is neither copied nor changed.

    Raises:
        ConfigError: The store has a copy for this name.
        StoreError: The store cannot be written.
    """
    if _copy(name).exists():
        raise ConfigError(
            f"The store has a converted copy of {name!r} already. To use {path} instead, first type: "
            f"reidzoo weights remove {name}"
        )
    from reidzoo import __version__

    path = path.resolve()
    entry = Entry(name, path, license, str(path), sha256(path), path.stat().st_size, True, __version__)
    record = {**asdict(entry), "path": str(path)}
    with writing(), atomic(_link(name)) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return entry


def remove(name: str) -> None:
    """Delete the stored copy, or the link (never the linked file).

    Raises:
        WeightsNotFoundError: The store has nothing for `name`.
        StoreError: The store cannot be written.
    """
    name = model_info(name).name
    there = [file for file in (_copy(name), _link(name)) if file.exists()]
    if not there:
        raise WeightsNotFoundError(f"The store {folder()} has no weights of {name!r}.")
    with writing():
        for file in there:
            file.unlink()


def verify(entry: Entry) -> None:
    """Compare the checksum of an entry's content with that of its import.

    Raises:
        CheckpointError: They differ: the file was damaged or changed since.
    """
    if entry.linked:
        found, expected = sha256(entry.path), entry.source_sha256
    else:
        from reidzoo.weights._convert import content_sha256
        from reidzoo.weights._files import stream_safetensors

        tensors, header = stream_safetensors(entry.path)
        found, expected = content_sha256(tensors, header), header.get("content_sha256", "none")
    if found != expected:
        raise CheckpointError(
            f"{entry.path} has changed since it was imported: checksum {found[:12]}..., expected {expected[:12]}... "
            f"Import it again: reidzoo weights import {entry.source}"
        )


def forget_link(name: str) -> None:
    """Delete the link of `name`, if there is one, because a copy has taken its place."""
    _link(name).unlink(missing_ok=True)


@contextmanager
def writing(name: str = "", size: int = 0) -> Iterator[Path]:
    """Yield the path for a new copy of `name` while the store is written to; failures become a `StoreError`.

    Args:
        name: The backbone.
        size: Bytes that are about to be written.
    """
    try:
        folder().mkdir(parents=True, exist_ok=True)
        for old in folder().glob(f".{name}*.tmp"):
            if age(old) > _STALE_S:
                old.unlink(missing_ok=True)
        free = shutil.disk_usage(folder()).free
        if size > free:
            raise StoreError(
                f"The weight store {folder()} has {free / 1e6:,.0f} MB of free disk, and {name!r} needs "
                f"{size / 1e6:,.0f} MB. Free some, or set REIDZOO_HOME to a folder on another disk. "
                f"Nothing was written."
            )
        yield _copy(name)
    except StoreError:
        raise
    except OSError as e:
        reason = os.strerror(e.errno) if e.errno else str(e)
        raise StoreError(
            f"The weight store {folder()} cannot be written: {reason}. What was in it is unchanged. To keep weights "
            f"elsewhere, set REIDZOO_HOME to a folder that you may write to."
        ) from e


def _copy(name: str) -> Path:
    return folder() / f"{name}.safetensors"


def _link(name: str) -> Path:
    return folder() / f"{name}.link.json"


def _header(path: Path) -> dict[str, str]:
    """The header of a stored copy: eight bytes of length, then JSON."""
    try:
        with path.open("rb") as file:
            header: dict[str, str] = json.loads(file.read(int.from_bytes(file.read(8), "little")))["__metadata__"]
        return {key: header[key] for key in ("license", "source", "source_sha256", "reidzoo_version")}
    except (ValueError, KeyError, OverflowError, MemoryError) as e:
        raise CheckpointError(
            f"{path} is damaged: it has no header of `reidzoo weights import` ({type(e).__name__}). Type: "
            f"reidzoo weights remove {path.stem}, then import the file again."
        ) from e


def _follow(link: Path) -> Entry:
    try:
        record = json.loads(link.read_text(encoding="utf-8"))
        entry = Entry(**{**record, "path": Path(record["path"])})
    except (ValueError, KeyError, TypeError) as e:
        raise CheckpointError(f"{link} is damaged ({e}): delete it and import the file again.") from e
    if not entry.path.is_file():
        raise WeightsNotFoundError(
            f"The weights of {entry.name!r} were linked to {entry.path}, which is gone. Link the file where it is now: "
            f"reidzoo weights import --link FILE"
        )
    if entry.path.stat().st_size != entry.size:
        raise CheckpointError(
            f"{entry.path} has {entry.path.stat().st_size:,} bytes, but {entry.size:,} when it was linked as "
            f"{entry.name!r}: it is another file now. Link it again: reidzoo weights import --link {entry.path}"
        )
    return entry

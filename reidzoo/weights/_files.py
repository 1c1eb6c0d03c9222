"""Reading files that come from elsewhere: pickles without running what they contain, errors that say what they are."""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from reidzoo.errors import CheckpointError, WeightsNotFoundError


def find_file(path: str | Path) -> Path:
    """`path`; of a folder its ``model.safetensors``, or the last checkpoint of a run that is not finished.

    Raises:
        WeightsNotFoundError: There is no such file.
    """
    path = Path(path).expanduser()
    files = [path / "model.safetensors", path / "checkpoints" / "last.pt"] if path.is_dir() else [path]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise WeightsNotFoundError(f"There is no weights file at {files[0]}.")
    return found


def is_safetensors(path: Path) -> bool:
    """Look at the content, not the name: eight bytes of header length, then JSON."""
    with path.open("rb") as file:
        start = file.read(9)
    return path.suffix == ".safetensors" or (len(start) == 9 and start[8:] == b"{" and start[:2] != b"PK")


def read_safetensors(path: Path, *, tensors: bool = True) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header of a safetensors file; with ``tensors=False`` the header alone.

    Raises:
        CheckpointError: The file is damaged or something else.
    """
    file, metadata = _open_safetensors(path)
    return {key: file.get_tensor(key) for key in (file.keys() if tensors else ())}, metadata


def stream_safetensors(path: Path) -> tuple[Iterator[tuple[str, Tensor]], dict[str, str]]:
    """Tensors one at a time, in the order of their names, and header of a safetensors file.

    Raises:
        CheckpointError: The file is damaged or something else.
    """
    file, metadata = _open_safetensors(path)
    return ((key, file.get_tensor(key)) for key in sorted(file.keys())), metadata


def _open_safetensors(path: Path) -> tuple[Any, dict[str, str]]:
    """Open a file that another process may replace at any moment.

    safetensors opens a path once for the header and once for the data. Under the name of an open file (where the system
    has such names) both meet the same one.
    """
    try:
        with path.open("rb") as opened:
            name = Path(f"/dev/fd/{opened.fileno()}")
            file: Any = safe_open(name if name.exists() else path, framework="pt")
            for key in list(file.keys())[:1]:
                file.get_tensor(key)  # from here on the data are mapped
            return file, dict(file.metadata() or {})
    except (SafetensorError, OSError) as e:
        raise CheckpointError(f"{path} is damaged or no safetensors file: {e}.{_sniff(path)}") from e


def read_pickle(path: Path) -> Any:
    """Unpickle with nothing but tensors, containers, ``argparse.Namespace`` and numpy scalars allowed.

    Raises:
        CheckpointError: The pickle asks for more, or the file is damaged or something else.
    """
    allowed: list[Any] = [
        argparse.Namespace,
        np.dtype,
        *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64")),
        # numpy 1 and numpy 2 spell the constructor of scalars differently.
        (_number, "numpy.core.multiarray.scalar"),
        (_number, "numpy._core.multiarray.scalar"),
    ]
    try:
        with torch.serialization.safe_globals(allowed):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as e:
        if found := re.search(r"GLOBAL (\S+)", str(e)):
            raise CheckpointError(
                f"{path} was refused: its pickle asks for {found[1]}, which no weights file needs and which could run "
                f"code. Nothing was executed. If you trust its author, save its state dict alone and load that."
            ) from e
        raise CheckpointError(f"{path} is no checkpoint that torch can read safely.{_sniff(path)}") from e
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AttributeError, TypeError) as e:
        raise CheckpointError(
            f"{path} is damaged or no checkpoint: {(str(e) or type(e).__name__).splitlines()[0]}.{_sniff(path)}"
        ) from e


def _number(dtype: Any, data: bytes) -> Any:
    """Stands in for numpy's constructor of scalars, which a crafted dtype could make do more than hold a number."""
    if not isinstance(dtype, np.dtype) or dtype.kind not in "biuf" or len(data) != dtype.itemsize:
        raise pickle.UnpicklingError(f"a numpy scalar of {dtype!r} is no number")
    return np.frombuffer(data, dtype)[0]


def _sniff(path: Path) -> str:
    """Say what a file is that is not a checkpoint, for the usual accidents of downloading."""
    with path.open("rb") as file:
        start = file.read(512).lstrip().lower()
    if not start:
        return " The file is empty."
    if start.startswith((b"<!doctype html", b"<html")):
        return " It is a web page: the download saved a login or warning page instead of the file."
    if start.startswith(b"version https://git-lfs"):
        return " It is a Git LFS pointer: type `git lfs pull`."
    return f" It has {path.stat().st_size:,} bytes; compare with the size at its source."

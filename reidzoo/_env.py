"""Every environment variable that reidzoo reads, with its meaning and default.

==========================  =======================================================================
``REIDZOO_ACCEPT_LICENSE``  licences to accept without being asked, ``id[,id...]`` (none)
``REIDZOO_DATA``            root folder of the data sets that are named without a path (``./data``)
``REIDZOO_HOME``            caches and the weight store (the platform's cache folder + ``/reidzoo``)
``REIDZOO_HUB_REPO``        gated hub repository with licensed weights, ``owner/name[@revision]`` (none)
``REIDZOO_PROGRESS``        ``0`` switches progress bars off, ``1`` forces them on (on at a terminal)
==========================  =======================================================================
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def data_root() -> Path:
    """Folder under which data sets without an explicit path are looked for."""
    return Path(os.environ.get("REIDZOO_DATA", "data")).expanduser()


def home() -> Path:
    """Folder for reidzoo's own files (caches, store)."""
    if "REIDZOO_HOME" in os.environ:
        return Path(os.environ["REIDZOO_HOME"]).expanduser()
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return base / "reidzoo"


def accepted_licenses() -> set[str]:
    """Licences that the caller accepts without being asked: for automation."""
    return {word for word in os.environ.get("REIDZOO_ACCEPT_LICENSE", "").replace(",", " ").split() if word}


def hub_repo() -> str | None:
    """Hub repository that holds licensed weights, ``owner/name`` or ``owner/name@revision``."""
    return os.environ.get("REIDZOO_HUB_REPO") or None


def progress() -> bool | None:
    """Whether to draw progress bars: True, False, or None for "at a terminal"."""
    value = os.environ.get("REIDZOO_PROGRESS", "")
    return None if value == "" else value not in ("0", "false", "no")

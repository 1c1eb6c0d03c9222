"""Every environment variable that reidzoo reads, with its meaning and default.

======================  =======================================================================
``REIDZOO_DATA``        root folder of the data sets that are named without a path (``./data``)
``REIDZOO_HOME``        caches and the weight store (the platform's cache folder + ``/reidzoo``)
``REIDZOO_PROGRESS``    ``0`` switches progress bars off, ``1`` forces them on (on at a terminal)
======================  =======================================================================
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


def progress() -> bool | None:
    """Whether to draw progress bars: True, False, or None for "at a terminal"."""
    value = os.environ.get("REIDZOO_PROGRESS", "")
    return None if value == "" else value not in ("0", "false", "no")

"""Optional packages, imported where they are used."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from reidzoo.errors import MissingExtraError


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import `module`, or say which extra of reidzoo brings it.

    Raises:
        MissingExtraError: `module` is not installed.
    """
    try:
        return import_module(module)
    except ImportError as e:
        raise MissingExtraError(
            f"{purpose} needs the package {module!r}, which is not installed. Type: pip install 'reidzoo[{extra}]'"
        ) from e

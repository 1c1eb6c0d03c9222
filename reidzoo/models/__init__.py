"""What a network is: the zoo's rows, one builder per family, heads. No data sets, no network access.

Listing needs no torch; `create_model` and the modules import it on first use (PEP 562).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from reidzoo.models._registry import FinetuneHint, ModelSpec, PublishedResult, list_models, model_info

if TYPE_CHECKING:
    from reidzoo.models._factory import create_model
    from reidzoo.models._keymap import from_official, to_official
    from reidzoo.models.heads import BNNeck, DINOHead, HeadOutput, LinearHead, ReIDModel

_EXPORTS = {
    "create_model": "reidzoo.models._factory",
    "from_official": "reidzoo.models._keymap",
    "to_official": "reidzoo.models._keymap",
    "BNNeck": "reidzoo.models.heads",
    "DINOHead": "reidzoo.models.heads",
    "HeadOutput": "reidzoo.models.heads",
    "LinearHead": "reidzoo.models.heads",
    "ReIDModel": "reidzoo.models.heads",
}

__all__ = [
    "BNNeck",
    "DINOHead",
    "FinetuneHint",
    "HeadOutput",
    "LinearHead",
    "ModelSpec",
    "PublishedResult",
    "ReIDModel",
    "create_model",
    "from_official",
    "list_models",
    "model_info",
    "to_official",
]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'reidzoo.models' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

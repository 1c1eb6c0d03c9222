"""What a network is: the zoo's rows, one builder per family, heads. No data sets, no network access.

Listing needs no torch; `create_model` and the modules import it on first use (PEP 562).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reidzoo._lazy import lazy
from reidzoo.models._registry import FinetuneHint, ModelSpec, PublishedResult, list_models, model_info

if TYPE_CHECKING:
    from reidzoo.models._factory import create_model
    from reidzoo.models._keymap import from_official, to_official
    from reidzoo.models.heads import BNNeck, DINOHead, HeadOutput, LinearHead, ReIDModel

_EXPORTS = {
    "create_model": "_factory",
    "from_official": "_keymap",
    "to_official": "_keymap",
    "BNNeck": "heads",
    "DINOHead": "heads",
    "HeadOutput": "heads",
    "LinearHead": "heads",
    "ReIDModel": "heads",
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


__getattr__, __dir__ = lazy(__name__, _EXPORTS)

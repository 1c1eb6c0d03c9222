"""Where tensors come from, and under which terms: checkpoint files, the local store, the hub, licences.

Asking what is in the store or which terms were accepted needs no torch; the rest imports it on first use (PEP 562).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reidzoo._lazy import lazy

if TYPE_CHECKING:
    from reidzoo.weights import licenses, store
    from reidzoo.weights._convert import import_official
    from reidzoo.weights._saved import read_metadata, save_model
    from reidzoo.weights.cards import model_card
    from reidzoo.weights.hub import from_pretrained, hub_repo, push_to_hub, save_pretrained, set_hub_repo
    from reidzoo.weights.official import Weights, export_official, load_weights, read_weights

_EXPORTS = {
    "Weights": "official",
    "export_official": "official",
    "from_pretrained": "hub",
    "hub_repo": "hub",
    "import_official": "_convert",
    "load_weights": "official",
    "model_card": "cards",
    "push_to_hub": "hub",
    "read_metadata": "_saved",
    "read_weights": "official",
    "save_model": "_saved",
    "save_pretrained": "hub",
    "set_hub_repo": "hub",
}
_SUBMODULES = ("cards", "hub", "licenses", "official", "store")

__all__ = [
    "Weights",
    "export_official",
    "from_pretrained",
    "hub_repo",
    "import_official",
    "licenses",
    "load_weights",
    "model_card",
    "push_to_hub",
    "read_metadata",
    "read_weights",
    "save_model",
    "save_pretrained",
    "set_hub_repo",
    "store",
]


__getattr__, __dir__ = lazy(__name__, _EXPORTS, _SUBMODULES)

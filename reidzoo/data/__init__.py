"""What an image collection is: records, data sets, samplers, transforms and loaders.

Names are imported on first use (PEP 562): reading a data set needs NumPy only.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reidzoo.data.datasets import list_datasets, load_dataset
    from reidzoo.data.records import Records, ReIDDataset
    from reidzoo.data.synthetic import write_synthetic

_EXPORTS = {
    "Records": "records",
    "ReIDDataset": "records",
    "list_datasets": "datasets",
    "load_dataset": "datasets",
    "write_synthetic": "synthetic",
}

__all__ = ["ReIDDataset", "Records", "list_datasets", "load_dataset", "write_synthetic"]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(f"reidzoo.data.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module 'reidzoo.data' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

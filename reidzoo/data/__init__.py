"""What an image collection is: records, data sets, samplers, transforms and loaders.

Names are imported on first use (PEP 562): reading a data set needs NumPy only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reidzoo._lazy import lazy

if TYPE_CHECKING:
    from reidzoo.data.datasets import dataset_info, list_datasets, load_dataset, load_splits
    from reidzoo.data.records import Records, ReIDDataset
    from reidzoo.data.synthetic import write_synthetic

_EXPORTS = {
    "Records": "records",
    "ReIDDataset": "records",
    "dataset_info": "datasets",
    "list_datasets": "datasets",
    "load_dataset": "datasets",
    "load_splits": "datasets",
    "write_synthetic": "synthetic",
}

__all__ = ["ReIDDataset", "Records", "dataset_info", "list_datasets", "load_dataset", "load_splits", "write_synthetic"]


__getattr__, __dir__ = lazy(__name__, _EXPORTS)

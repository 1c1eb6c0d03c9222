"""Exact nearest neighbours, once."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from reidzoo.eval._inputs import Metric
from reidzoo.eval.index import SearchIndex


def search(
    query: ArrayLike | torch.Tensor,
    gallery: ArrayLike | torch.Tensor,
    k: int = 10,
    *,
    metric: Metric = "cosine",
    backend: str = "auto",
    device: str | torch.device = "auto",
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the `k` nearest gallery rows of every query, nearest first.

    Exact, and the same on every backend: the neighbours are those of float64 arithmetic, and rows at equal distance
    come in the order of the gallery. To search one gallery many times, or approximately: `SearchIndex`.

    Args:
        query: (Q, D) features.
        gallery: (G, D) features.
        k: Neighbours wanted; a smaller gallery gives all it has, that is min(k, G).
        metric: ``"cosine"`` (distance 1 - cos, in [0, 2]; features need not be normalised) or ``"euclidean"``.
        backend: ``"faiss"``, ``"torch"``, ``"faiss-gpu"`` or ``"auto"``, see `SearchIndex`.
        device: Of the torch backend.

    Returns:
        Distances (Q, min(k, G)) float32, ascending, and gallery indices (Q, min(k, G)) int64.

    Raises:
        DataError: Shapes that do not fit, an empty side, or features that are NaN or infinite.
        ConfigError: `k` below 1, an unknown `metric` or `backend`, or one that is not there.
    """
    found = SearchIndex(gallery, metric=metric, backend=backend, device=device).search(query, k)
    return found.distances, found.indices

"""Exact nearest neighbours through faiss."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from reidzoo.errors import ConfigError, DataError
from reidzoo.eval.metrics import Metric, as_array, check_choice


def search(
    query: ArrayLike | torch.Tensor, gallery: ArrayLike | torch.Tensor, k: int = 10, *, metric: Metric = "cosine"
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the `k` nearest gallery rows of every query, nearest first.

    Exact up to the rounding of float32; rows at equal distance come in the order of the gallery.

    Args:
        query: (Q, D) features.
        gallery: (G, D) features.
        k: Neighbours wanted; a smaller gallery gives all it has, that is min(k, G).
        metric: ``"cosine"`` (distance 1 - cos, in [0, 2]; features need not be normalised) or ``"euclidean"``.

    Returns:
        Distances (Q, min(k, G)) float32, ascending, and gallery indices (Q, min(k, G)) int64.

    Raises:
        DataError: Shapes that do not fit, an empty side, or features that are NaN or infinite.
        ConfigError: `k` below 1 or an unknown `metric`.
    """
    import faiss

    check_choice("metric", metric, ("cosine", "euclidean"))
    if k < 1:
        raise ConfigError(f"k is {k}; it must be at least 1.")
    q, g = _matrix("query", query, metric), _matrix("gallery", gallery, metric)
    if q.shape[1] != g.shape[1]:
        raise DataError(f"Query features have {q.shape[1]} dimensions, gallery features {g.shape[1]}; they must agree.")
    kind = faiss.METRIC_INNER_PRODUCT if metric == "cosine" else faiss.METRIC_L2
    values, indices = faiss.knn(q, g, min(k, len(g)), metric=kind)
    distances = 1 - values if metric == "cosine" else np.sqrt(np.maximum(values, 0))
    order = np.lexsort((indices, distances))
    return np.take_along_axis(distances, order, 1), np.take_along_axis(indices, order, 1).astype(np.int64)


def _matrix(side: str, features: ArrayLike | torch.Tensor, metric: Metric) -> NDArray[np.float32]:
    x = np.ascontiguousarray(as_array(features), dtype=np.float32)
    if x.ndim != 2 or x.size == 0:
        raise DataError(
            f"The {side} features have shape {x.shape}; expected (images, dimensions), at least one of each."
        )
    norm = np.sqrt(np.einsum("nd,nd->n", x, x, dtype=np.float64))
    if not np.isfinite(norm).all():
        bad = np.flatnonzero(~np.isfinite(norm))
        raise DataError(f"{len(bad)} {side} features contain NaN or infinity (first rows: {bad[:5].tolist()}).")
    if metric == "cosine":
        x = np.divide(x, np.where(norm > 0, norm, 1)[:, None], dtype=np.float32)
    return x

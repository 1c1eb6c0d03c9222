"""Which cameras are hard to find people from, or in."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reidzoo.data.records import JUNK, NO_CAMERA, Records
from reidzoo.eval.metrics import Convention, Metric, compute_metrics


def camera_pairs(
    query_features: NDArray[Any],
    gallery_features: NDArray[Any],
    query: Records,
    gallery: Records,
    *,
    metric: Metric = "cosine",
    ap: Convention = "rectangle",
    same_camera: bool = False,
    most: int = 20,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return the mAP from each camera to each other: its queries, searched in the other's gallery images alone.

    Args:
        query_features: (Q, D) finite.
        gallery_features: (G, D).
        query: The Q records.
        gallery: The G records.
        metric: ``"cosine"`` or ``"euclidean"``.
        ap: ``"rectangle"`` or ``"trapezoid"``, see `compute_metrics`.
        same_camera: Search each camera's queries in its own images as well.
        most: Cameras on a side at most; those with the most images are taken.

    Returns:
        Cameras of the queries (A,), cameras of the gallery (B,), both ascending, and (A, B) mAP; NaN where no query has
        a match, and where a camera meets itself unless `same_camera`.
    """
    a, b = _busiest(query.camid, most), _busiest(gallery.camid, most)
    table = np.full((len(a), len(b)), np.nan)
    for column, camera in enumerate(b):
        g = np.flatnonzero(gallery.camid == camera)
        matched = np.isin(query.pid, np.setdiff1d(gallery.pid[g], [JUNK]))
        q = np.flatnonzero(matched & np.isin(query.camid, a) & (same_camera | (query.camid != camera)))
        if len(q) == 0:
            continue
        result = compute_metrics(
            query_features[q], gallery_features[g], query.pid[q], gallery.pid[g], metric=metric, ap=ap
        )  # fmt: skip
        for row, other in enumerate(a):
            of = query.camid[q] == other
            if of.any():
                table[row, column] = result.per_query_ap[of].mean()
    return a, b, table


def _busiest(cameras: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    names, counts = np.unique(cameras[cameras != NO_CAMERA], return_counts=True)
    chosen: NDArray[np.int64] = np.sort(names[np.argsort(-counts, kind="stable")[:most]])
    return chosen

"""CMC, mAP and mINP from feature arrays."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from reidzoo._logging import get_logger
from reidzoo.errors import ConfigError, DataError, did_you_mean
from reidzoo.eval._ranks import Index, Matches, Vectors, count_ahead, exact_similarity
from reidzoo.eval.report import EvalResult

__all__ = ["Convention", "EvalResult", "Metric", "average_precision", "compute_metrics"]

_log = get_logger(__name__)

Metric = Literal["cosine", "euclidean"]
Convention = Literal["rectangle", "trapezoid"]


def compute_metrics(
    query_features: ArrayLike | torch.Tensor,
    gallery_features: ArrayLike | torch.Tensor,
    query_ids: ArrayLike,
    gallery_ids: ArrayLike,
    query_cams: ArrayLike | None = None,
    gallery_cams: ArrayLike | None = None,
    *,
    metric: Metric = "cosine",
    ap: Convention = "rectangle",
    max_rank: int = 50,
) -> EvalResult:
    """Measure retrieval as on Market-1501 (Zheng et al., "Scalable Person Re-identification", ICCV 2015).

    For every query the gallery is ranked by distance; equal distances keep the order of the gallery. Gallery images
    of the query's identity *and* camera are removed, and so are images of identity -1 (junk). What remains is searched
    for the query's identity. An identity of 0 in the gallery is nobody's match (a distractor) unless a query has it.
    Queries without a true match count in ``num_queries`` but not in the means.

    Exact (the ranks are those of float64 arithmetic), deterministic, and streamed: neither the query x gallery matrix
    nor a sorted row of it ever exists. Memory above the inputs is about 150 MB whatever the sizes.

    Args:
        query_features: (Q, D) array or tensor of any real type; memory maps are read in pieces.
        gallery_features: (G, D), likewise.
        query_ids: (Q,) identities, integers.
        gallery_ids: (G,) identities; -1 junk.
        query_cams: (Q,) cameras, integers; None, or -1 for single images, where unknown: nothing is removed for them.
        gallery_cams: (G,), likewise.
        metric: ``"cosine"`` (features need not be normalised) or ``"euclidean"``.
        ap: ``"rectangle"``, sum of precision at each true match (scikit-learn, fast-reid, TransReID, the ReIDZoo
            tables), or ``"trapezoid"``, the original Market-1501 evaluation (Oxford buildings), never larger.
        max_rank: Last rank of the CMC curve.

    Raises:
        DataError: Lengths or dimensions do not fit, a feature is NaN or infinite, a side is empty, or no query has a
            true match.
        ConfigError: An unknown `metric` or `ap`.
    """
    check_choice("metric", metric, ("cosine", "euclidean"))
    check_choice("ap", ap, ("rectangle", "trapezoid"))
    if max_rank < 1:
        raise ConfigError(f"max_rank is {max_rank}; it must be at least 1.")
    q_rows, q_ids, q_cams = _columns("query", query_features, query_ids, query_cams)
    g_rows, g_ids, g_cams = _columns("gallery", gallery_features, gallery_ids, gallery_cams)
    if q_rows.shape[1] != g_rows.shape[1]:
        raise DataError(
            f"Query features have {q_rows.shape[1]} dimensions, gallery features {g_rows.shape[1]}. "
            "Both must come from the same model."
        )
    kept = np.flatnonzero(g_ids != -1)
    scale = None if metric == "cosine" else max(_largest_norm(q_rows), _largest_norm(g_rows)) or 1.0
    query = Vectors(q_rows, scale=scale)
    gallery = Vectors(g_rows, kept if len(kept) < len(g_ids) else None, scale)
    valid, matches = _find_matches(query, q_ids, q_cams, gallery, g_ids[kept], g_cams[kept])
    if len(valid) == 0:
        raise DataError(_no_match_message(q_ids, q_cams, g_ids, g_cams))
    if len(valid) < len(q_ids):
        missing = np.setdiff1d(np.arange(len(q_ids)), valid)
        _log.warning(
            "%d of %d queries have no true match in the gallery and are left out of the means (first indices: %s).",
            len(missing), len(q_ids), missing[:5].tolist(),
        )  # fmt: skip
    ahead = count_ahead(Vectors(q_rows, valid, scale), gallery, matches)
    # The k-th true match of the ranking stands behind k others and behind the negatives ahead of it.
    positions = [np.sort(a) + np.arange(len(a)) for a in ahead]

    per_query = np.full(len(q_ids), np.nan)
    per_query[valid] = [average_precision(p, ap) for p in positions]
    first = np.array([p[0] for p in positions])
    return EvalResult(
        mAP=float(per_query[valid].mean()),
        cmc=(first[:, None] < np.arange(max_rank + 1)).mean(axis=0),
        mINP=float(np.mean([len(p) / (p[-1] + 1) for p in positions])),
        per_query_ap=per_query,
        num_queries=len(q_ids),
        num_valid=len(valid),
        convention=ap,
    )


def average_precision(positions: Index, convention: Convention = "rectangle") -> float:
    """Average precision of one ranking.

    With the true matches at 0-based positions r_0 < ... < r_{n-1}, precision at the i-th is (i+1)/(r_i+1).
    ``"rectangle"`` averages these; ``"trapezoid"`` averages each with the precision just before it, i/r_i (1 if
    r_i = 0), as in the evaluation code of the Oxford buildings and Market-1501.

    Args:
        positions: (n,) ascending 0-based positions of the true matches, n >= 1.
        convention: ``"rectangle"`` or ``"trapezoid"``.
    """
    i = np.arange(len(positions))
    precision = (i + 1) / (positions + 1)
    if convention == "trapezoid":
        before = np.where(positions > 0, i / np.maximum(positions, 1), 1.0)
        precision = (precision + before) / 2
    return float(precision.mean())


def check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raise `ConfigError` unless `value` is one of `known`."""
    if value not in known:
        raise ConfigError(f"{name}={value!r} is not one of {', '.join(map(repr, known))}.{did_you_mean(value, known)}")


def _columns(
    side: str, features: ArrayLike | torch.Tensor, ids: ArrayLike, cams: ArrayLike | None
) -> tuple[NDArray[Any], Index, Index]:
    """Return features (N, D), ids (N,) and cameras (N,) as arrays that fit together."""
    rows = as_array(features)
    if rows.ndim != 2:
        raise DataError(f"The {side} features have shape {rows.shape}; expected (images, dimensions).")
    if rows.dtype.kind not in "fiu":
        raise DataError(f"The {side} features are of type {rows.dtype}; expected real numbers, such as float32.")
    if rows.size == 0:
        raise DataError(
            f"The {side} is empty: its features have shape {rows.shape}. Check the {side} split of the data set."
        )
    columns = []
    for name, values in (("ids", ids), ("cams", np.full(len(rows), -1) if cams is None else cams)):
        column = as_array(values)
        if column.shape != (len(rows),):
            raise DataError(
                f"There are {len(rows)} {side} features, but {side}_{name} has shape {column.shape}; "
                f"expected ({len(rows)},)."
            )
        if column.dtype.kind not in "iu":
            raise DataError(
                f"{side}_{name} is of type {column.dtype}; expected integers. Number names first, for example with "
                "numpy.unique(names, return_inverse=True)."
            )
        columns.append(column.astype(np.int64))
    _check_finite(side, rows)
    return rows, columns[0], columns[1]


def as_array(values: ArrayLike | torch.Tensor) -> NDArray[Any]:
    """Return `values` as an array, without a copy where that is possible; bfloat16 becomes float32."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values
        return values.numpy()
    return np.asarray(values)


def _check_finite(side: str, rows: NDArray[Any]) -> None:
    step = max(1, (8 << 20) // (8 * rows.shape[1]))
    for start in range(0, len(rows), step):
        piece = rows[start : start + step]
        if np.isfinite(piece.sum(dtype=np.float64)):  # NaN and infinity do not leave a sum
            continue
        bad = np.flatnonzero(~np.isfinite(piece).all(axis=1)) + start
        if len(bad):
            raise DataError(
                f"{side.capitalize()} features contain NaN or infinity (row {', '.join(map(str, bad[:5]))}). "
                "Was the training run stable? Extract the features in float32."
            )


def _largest_norm(rows: NDArray[Any]) -> float:
    step = max(1, (8 << 20) // (8 * rows.shape[1]))
    pieces = (rows[start : start + step].astype(np.float64) for start in range(0, len(rows), step))
    return max(float(np.sqrt(np.einsum("nd,nd->n", x, x).max())) for x in pieces)


def _find_matches(
    query: Vectors, q_ids: Index, q_cams: Index, gallery: Vectors, g_ids: Index, g_cams: Index
) -> tuple[Index, list[Matches]]:
    """Return the queries that have a true match, ascending, and the matches of each."""
    found: dict[int, Matches] = {}
    q_order, g_order = np.argsort(q_ids, kind="stable"), np.argsort(g_ids, kind="stable")
    ids = np.intersect1d(q_ids, g_ids)
    q_edges = q_ids[q_order].searchsorted(ids, "left"), q_ids[q_order].searchsorted(ids, "right")
    g_edges = g_ids[g_order].searchsorted(ids, "left"), g_ids[g_order].searchsorted(ids, "right")
    for qa, qb, ga, gb in zip(*q_edges, *g_edges, strict=True):
        queries, own = q_order[qa:qb], g_order[ga:gb]
        cams = g_cams[own]
        counts = (q_cams[queries, None] != cams) | (cams == -1)
        similarity = exact_similarity(query, queries, gallery, own)
        for q, s, c in zip(queries.tolist(), similarity, counts, strict=True):
            if c.any():
                found[q] = Matches(own, s, c)
    valid = sorted(found)
    return np.array(valid, np.int64), [found[q] for q in valid]


def _no_match_message(q_ids: Index, q_cams: Index, g_ids: Index, g_cams: Index) -> str:
    shared = np.intersect1d(q_ids, g_ids[g_ids != -1])
    if len(shared) == 0:
        return (
            f"No query identity appears in the gallery: queries have {_some(q_ids)}, the gallery has {_some(g_ids)}. "
            "Use one numbering of identities for both splits (with a data set of your own: the same folder or pid for "
            "the same person in query and gallery)."
        )
    return (
        f"No query has a true match: {len(shared)} identities are in both query and gallery, but only under the same "
        f"camera (query cameras {_some(q_cams)}, gallery cameras {_some(g_cams)}), and the Market-1501 rule removes "
        "gallery images of the query's identity and camera. If the cameras are not known, leave them out "
        "(query_cams=None, gallery_cams=None, or camera -1 in the data set); then no image is removed."
    )


def _some(values: Index) -> str:
    unique = np.unique(values)
    return f"{', '.join(map(str, unique[:5]))}{', ...' if len(unique) > 5 else ''} ({len(unique)} in all)"

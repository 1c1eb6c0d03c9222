"""CMC, mAP and mINP from feature arrays, or from distances."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from itertools import pairwise
from typing import Any
from typing import Protocol as Structure

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from reidzoo._logging import get_logger
from reidzoo.errors import ConfigError, DataError
from reidzoo.eval._given import DistanceBlocks, as_blocks, find_given_matches
from reidzoo.eval._inputs import (
    JUNK,
    METRICS,
    NO_CAMERA,
    Convention,
    Images,
    Index,
    Metric,
    as_array,
    check_choice,
    check_dimensions,
    feature_rows,
    largest_norm,
    no_match_message,
    same_rows,
)
from reidzoo.eval._ranks import Matches, Vectors, count_ahead, exact_similarity, threads
from reidzoo.eval._single_shot import single_shot_cmc
from reidzoo.eval.protocols import Protocol, as_protocol
from reidzoo.eval.report import EvalResult
from reidzoo.eval.scores import Impostors, Scores

__all__ = [
    "Convention",
    "DistanceBlocks",
    "EvalResult",
    "Metric",
    "as_array",
    "average_precision",
    "check_choice",
    "compute_metrics",
    "interpolated_precision",
    "metrics_from_distances",
]

_TOGETHER = 256  # images of some identities, about, whose similarities are computed in one product
_log = get_logger(__name__)


class Reranking(Structure):
    """Settings that turn features into distances, such as `Rerank`."""

    def distances(self, query: Any, gallery: Any, metric: Metric = ...) -> DistanceBlocks:
        """Return distances of (Q, D) queries and a (G, D) gallery, made block by block."""


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
    protocol: str | Protocol = "market",
    rerank: Reranking | None = None,
) -> EvalResult:
    """Measure retrieval as on Market-1501 (Zheng et al., "Scalable Person Re-identification", ICCV 2015).

    For every query the gallery is ranked by distance; equal distances keep the order of the gallery. Gallery images
    of the query's identity *and* camera are removed, and so are images of identity -1 (junk). What remains is searched
    for the query's identity. An identity of 0 in the gallery is nobody's match (a distractor) unless a query has it.
    Queries without a true match count in ``num_queries`` but not in the means.

    Exact (the ranks are those of float64 arithmetic), deterministic, and streamed: neither the query x gallery matrix
    nor a sorted row of it ever exists. Memory above the inputs is about 110 MB, growing only with the true pairs.

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
        protocol: ``"market"`` as above (also CUHK03's new protocol), ``"no_camera"``: no image is removed for its
            camera, ``"cuhk03_classic"``: the CMC curve is that of single-shot galleries, or a `Protocol`, such as
            `MultiQuery`.
        rerank: Re-rank with these settings first, such as ``Rerank(k1=20)``.

    Raises:
        DataError: Lengths or dimensions do not fit, a feature is NaN or infinite, a side is empty, or no query has a
            true match.
        ConfigError: An unknown `metric`, `ap` or `protocol`, or several images per query with `rerank`.
    """
    check_choice("metric", metric, METRICS)
    rules = as_protocol(protocol)
    q_rows, g_rows = feature_rows("query", query_features), feature_rows("gallery", gallery_features)
    query = Images.checked("query", len(q_rows), query_ids, query_cams)
    gallery = Images.checked("gallery", len(g_rows), gallery_ids, gallery_cams)
    check_dimensions(q_rows, g_rows)
    _check_settings(ap, max_rank)
    _warn_of_itself(q_rows, g_rows, query, rules)
    kept = np.flatnonzero(gallery.ids != JUNK)
    wanted = rules.queries(q_rows, query, metric)
    if rerank is not None:
        if wanted.edges is not None:
            raise ConfigError('Re-ranking compares single images; use MultiQuery(..., pool="average") with it.')
        if len(kept) == 0:
            raise DataError(no_match_message(query, gallery))
        blocks = rerank.distances(wanted.rows, g_rows if len(kept) == len(g_rows) else g_rows[kept], metric)
        return _from_blocks(blocks, query, gallery.select(kept), ap, max_rank, rules)

    scale = None if metric == "cosine" else max(largest_norm(wanted.rows), largest_norm(g_rows)) or 1.0
    wanted = replace(wanted, scale=scale)
    candidates = Vectors(g_rows, kept if len(kept) < len(g_rows) else None, scale)
    valid, matches = _find_matches(wanted, query, candidates, gallery.select(kept), rules)
    _report_missing(valid, query, gallery)
    searched = wanted.select(valid) if len(valid) < len(wanted) else wanted
    pairs = len(valid) * len(candidates) - sum(len(m.own) for m in matches)
    seen = Impostors(pairs, wanted.distance)
    ahead = count_ahead(searched, candidates, matches, seen.add)
    genuine = wanted.distance(np.concatenate([m.similarity[m.counts] for m in matches]))
    cmc = None
    if rules.repeats:

        def similarity(queries: slice, images: Index) -> NDArray[np.float64]:
            return exact_similarity(searched, queries, candidates, images)

        cmc = single_shot_cmc(similarity, matches, gallery.ids[kept], max_rank, rules.repeats, rules.seed)
    return _summary(valid, _positions(ahead), len(query.ids), ap, max_rank, rules, seen.scores(genuine, pairs), cmc)


def metrics_from_distances(
    distances: ArrayLike | torch.Tensor | DistanceBlocks,
    query_ids: ArrayLike,
    gallery_ids: ArrayLike,
    query_cams: ArrayLike | None = None,
    gallery_cams: ArrayLike | None = None,
    *,
    ap: Convention = "rectangle",
    max_rank: int = 50,
    protocol: str | Protocol = "market",
) -> EvalResult:
    """Measure retrieval by the rules of `compute_metrics`, from distances that are there already.

    Args:
        distances: (Q, G) real numbers, smaller is more alike, or an object with ``shape`` (Q, G) and a method
            ``block(start, stop)`` that returns the rows of those queries: then no more than a block is held.
        query_ids: (Q,) identities, integers.
        gallery_ids: (G,) identities; -1 junk.
        query_cams: (Q,) cameras, or None.
        gallery_cams: (G,) cameras, or None.
        ap: As in `compute_metrics`.
        max_rank: As in `compute_metrics`.
        protocol: As in `compute_metrics`, but not `MultiQuery`, whose distances are not between images.

    Raises:
        DataError: Lengths do not fit, a distance is NaN, or no query has a true match.
        ConfigError: An unknown `ap` or `protocol`.
    """
    _check_settings(ap, max_rank)
    blocks = as_blocks(distances)
    query = Images.checked("query", blocks.shape[0], query_ids, query_cams)
    gallery = Images.checked("gallery", blocks.shape[1], gallery_ids, gallery_cams)
    return _from_blocks(blocks, query, gallery, ap, max_rank, as_protocol(protocol))


def average_precision(positions: Index, convention: Convention = "rectangle") -> NDArray[np.float64]:
    """Average precision of rankings that have equally many true matches.

    With the true matches at 0-based positions r_0 < ... < r_{n-1}, precision at the i-th is (i+1)/(r_i+1).
    ``"rectangle"`` averages these; ``"trapezoid"`` averages each with the precision just before it, i/r_i (1 if
    r_i = 0), as in the evaluation code of the Oxford buildings and Market-1501.

    Args:
        positions: (..., n) ascending 0-based positions of the true matches, n >= 1.
        convention: ``"rectangle"`` or ``"trapezoid"``.

    Returns:
        (...) in (0, 1].
    """
    i = np.arange(positions.shape[-1])
    precision = (i + 1) / (positions + 1)
    if convention == "trapezoid":
        before = np.where(positions > 0, i / np.maximum(positions, 1), 1.0)
        precision = (precision + before) / 2
    mean: NDArray[np.float64] = precision.mean(axis=-1)
    return mean


def interpolated_precision(positions: Index) -> NDArray[np.float64]:
    """Return the best precision at each recall 0, 0.01, ..., 1 or above it, (..., 101).

    Args:
        positions: (..., n) ascending 0-based positions of the true matches of rankings, n >= 1.
    """
    n = positions.shape[-1]
    precision = np.arange(1, n + 1) / (positions + 1)
    best = np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]
    needed = -(-np.arange(101) * n // 100)  # matches that make this recall
    at_recall: NDArray[np.float64] = best[..., np.maximum(needed, 1) - 1]
    return at_recall


def _check_settings(ap: str, max_rank: int) -> None:
    check_choice("ap", ap, ("rectangle", "trapezoid"))
    if max_rank < 1:
        raise ConfigError(f"max_rank is {max_rank}; it must be at least 1.")


def _find_matches(
    wanted: Vectors, query: Images, candidates: Vectors, gallery: Images, rules: Protocol
) -> tuple[Index, list[Matches]]:
    """Return the queries that have a true match, ascending, and the matches of each."""
    found: dict[int, Matches] = {}
    ids = np.intersect1d(query.ids, gallery.ids)
    q_order, g_order = _by_identity(query.ids, ids), _by_identity(gallery.ids, ids)
    q_edges, g_edges = (
        np.append(side.ids[order].searchsorted(ids), len(order))
        for side, order in ((query, q_order), (gallery, g_order))
    )
    cuts = np.unique((q_edges + g_edges).searchsorted(np.arange(0, len(q_order) + len(g_order), _TOGETHER)))

    def find(span: tuple[int, int]) -> None:
        """Find the matches of a few identities, whose similarities are computed in one product."""
        q_edge, g_edge = q_edges[span[0] : span[1] + 1], g_edges[span[0] : span[1] + 1]
        queries, images = q_order[q_edge[0] : q_edge[-1]], g_order[g_edge[0] : g_edge[-1]]
        products = exact_similarity(wanted, queries, candidates, images)
        q_edge, g_edge = q_edge - q_edge[0], g_edge - g_edge[0]
        for q0, q1, g0, g1 in zip(q_edge, q_edge[1:], g_edge, g_edge[1:], strict=False):
            own = images[g0:g1]
            counts = rules.counts(query.cams[queries[q0:q1]], gallery.cams[own])
            for q, s, c in zip(queries[q0:q1].tolist(), products[q0:q1, g0:g1].copy(), counts, strict=True):
                if c.any():
                    found[q] = Matches(own, s, c)

    with threads() as (_, run):
        deque(run(find, pairwise(np.append(cuts, len(ids)))), 0)
    valid = sorted(found)
    return np.array(valid, np.int64), [found[q] for q in valid]


def _by_identity(of_images: Index, ids: Index) -> Index:
    """Return the images of some identities, ordered by them."""
    some = np.flatnonzero(np.isin(of_images, ids))
    return some[np.argsort(of_images[some], kind="stable")]


def _from_blocks(
    blocks: DistanceBlocks, query: Images, all_images: Images, ap: Convention, max_rank: int, rules: Protocol
) -> EvalResult:
    kept = np.flatnonzero(all_images.ids != JUNK)
    gallery = all_images.select(kept)
    valid, matches, ahead, scores = find_given_matches(blocks, query, gallery, kept, rules)
    _report_missing(valid, query, all_images)
    cmc = None
    if rules.repeats:

        def similarity(queries: slice, images: Index) -> NDArray[np.float64]:
            rows = valid[queries]
            block = blocks.block(int(rows[0]), int(rows[-1]) + 1)
            result: NDArray[np.float64] = -block[rows - rows[0]][:, kept[images]].astype(np.float64)
            return result

        cmc = single_shot_cmc(similarity, matches, gallery.ids, max_rank, rules.repeats, rules.seed)
    return _summary(valid, _positions(ahead), len(query.ids), ap, max_rank, rules, scores, cmc)


def _positions(ahead: list[Index]) -> list[Index]:
    """The k-th true match of the ranking stands behind k others and behind the negatives ahead of it."""
    return [np.sort(a) + np.arange(len(a)) for a in ahead]


def _summary(
    valid: Index,
    positions: list[Index],
    num_queries: int,
    ap: Convention,
    max_rank: int,
    rules: Protocol,
    scores: Scores,
    cmc: NDArray[np.float64] | None,
) -> EvalResult:
    per_query, precision = np.full(num_queries, np.nan), np.zeros(101)
    matches = np.array([len(p) for p in positions])
    for n in np.unique(matches):
        same = np.flatnonzero(matches == n)
        block = np.stack([positions[q] for q in same])
        per_query[valid[same]] = average_precision(block, ap)
        precision += interpolated_precision(block).sum(axis=0)
    first, last = (np.array([p[end] for p in positions]) for end in (0, -1))
    return EvalResult(
        mAP=float(per_query[valid].mean()),
        cmc=(first[:, None] < np.arange(max_rank + 1)).mean(axis=0) if cmc is None else cmc,
        mINP=float((matches / (last + 1)).mean()),
        per_query_ap=per_query,
        num_queries=num_queries,
        num_valid=len(valid),
        convention=ap,
        protocol=rules.name,
        scores=scores,
        precision=precision / len(valid),
    )


def _report_missing(valid: Index, query: Images, gallery: Images) -> None:
    if len(valid) == 0:
        raise DataError(no_match_message(query, gallery))
    if len(valid) < len(query.ids):
        missing = np.setdiff1d(np.arange(len(query.ids)), valid)
        _log.warning(
            "%d of %d queries have no true match in the gallery and are left out of the means (first indices: %s).",
            len(missing), len(query.ids), missing[:5].tolist(),
        )  # fmt: skip


def _warn_of_itself(q_rows: NDArray[Any], g_rows: NDArray[Any], query: Images, rules: Protocol) -> None:
    """Say so if every query is in the gallery and nothing removes it: Rank-1 is then 100 %."""
    if len(q_rows) > 1 and (rules.same_camera or (query.cams == NO_CAMERA).any()) and same_rows(q_rows, g_rows):
        _log.warning(
            "Query and gallery are the same %d images, and without cameras each query finds itself first. Give the "
            "cameras, or leave the queries out of the gallery.",
            len(q_rows),
        )

"""Exact ranks of the true matches, streamed: the engine under `compute_metrics`.

An average precision needs, of a whole ranking, only where the true matches stand; and where a true match stands is
the number of other images that are more similar to the query. So no row is ever sorted:

1. The similarity of every true match is computed in float64: few pairs, identity by identity.
2. Queries x gallery is walked in float32 tiles, one matrix product each. Every value of a tile either lies clearly
   above or below a true match's similarity, and is counted, or lies within the rounding error of float32.
3. Those few doubtful ones are computed again in float64. Values equal there are ties: the smaller gallery index ranks
   first.

The ranks are therefore those of float64 arithmetic with a stable sort, whatever library multiplied the tiles, and the
memory is that of one tile and one prepared piece of the gallery.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reidzoo._logging import progress

_PIECE_BYTES = 24 << 20  # of prepared gallery rows held at a time
_TILE_BYTES = 32 << 20  # of similarities held at a time
_EXACT_BYTES = 4 << 20  # of float64 rows held at a time by each thread
_EXACT_QUERIES = 64  # queries that one thread counts for, and whose doubtful values are settled together
_DOUBTFUL = 1 << 20  # doubtful values settled together, about
TIE = 1e-12  # float64 similarities of vectors of unit size closer than this are equal

Floats = NDArray[np.floating[Any]]
Index = NDArray[np.int64]
Doubt = tuple[np.int64, int, Index]  # a true match, its query, columns of the tile that may be ahead of it


@dataclass(frozen=True)
class Vectors:
    """Feature rows and what turns their plain products into similarities of one metric.

    Cosine is the product of the normalised rows (a zero row has cosine 0 with everything). For the Euclidean distance d
    it is ``q.g - |q|^2 / 2 - |g|^2 / 2 = -d^2 / 2``, of rows divided by one number that brings all to length 1 at most.

    Attributes:
        rows: (N, D) real numbers of any type, possibly a memory map: read in pieces.
        index: Rows that take part, or None for all. Positions below count within these.
        scale: The divisor of the Euclidean rows, or None for cosine.
        edges: (n + 1,) where several images make one query: it has the rows ``edges[i]:edges[i + 1]``, at least one,
            and the similarity of the closest. None: every row is one.
    """

    rows: NDArray[Any]
    index: Index | None = None
    scale: float | None = None
    edges: Index | None = None

    def __len__(self) -> int:
        if self.edges is not None:
            return len(self.edges) - 1
        return len(self.rows) if self.index is None else len(self.index)

    def select(self, at: Index) -> Vectors:
        """Return the vectors at positions `at`."""
        if self.edges is None:
            return Vectors(self.rows, at if self.index is None else self.index[at], self.scale)
        rows, starts = self._members(at)
        edges = np.append(starts, len(rows))
        return Vectors(self.rows, rows if self.index is None else self.index[rows], self.scale, edges)

    def take(self, at: slice | Index, dtype: type[np.floating[Any]]) -> tuple[Floats, Floats, Index | None]:
        """Return the prepared rows at `at`, (n, D), what to add to their products, (n,), and where each query starts.

        The starts, (len(at),), are None where every row is a query.
        """
        starts: Index | None = None
        if self.edges is not None:
            at, starts = self._members(np.arange(len(self))[at])
        rows = self.rows[at if self.index is None else self.index[at]]
        if self.scale is not None:
            x: Floats = np.divide(rows, dtype(self.scale), dtype=dtype)
            return x, np.einsum("nd,nd->n", x, x) * dtype(-0.5), starts
        x = rows.astype(dtype, copy=False)
        norm = np.sqrt(np.einsum("nd,nd->n", x, x))
        room = None if np.may_share_memory(x, self.rows) else x
        unit = np.multiply(x, (1 / np.where(norm > 0, norm, 1)).astype(dtype)[:, None], out=room)
        return unit, np.zeros(1, dtype), starts

    def distance(self, similarity: NDArray[Any]) -> NDArray[Any]:
        """Turn similarities of these vectors into distances of the metric: 1 - cos, or the Euclidean distance."""
        if self.scale is None:
            return 1 - similarity
        distance: NDArray[Any] = similarity.dtype.type(self.scale) * np.sqrt(np.maximum(-2 * similarity, 0))
        return distance

    def _members(self, at: Index) -> tuple[Index, Index]:
        """Return the rows of the queries at `at`, and where those of each start among them."""
        assert self.edges is not None
        first, count = self.edges[at], self.edges[at + 1] - self.edges[at]
        starts = np.cumsum(count) - count
        return np.arange(count.sum()) + np.repeat(first - starts, count), starts


@dataclass(frozen=True)
class Matches:
    """The gallery images of one query's identity.

    Attributes:
        own: (m,) ascending positions of all of them; none of them is a rival of another.
        similarity: (m,) float64.
        counts: (m,) False where the junk rule removes the image.
    """

    own: Index
    similarity: NDArray[np.float64]
    counts: NDArray[np.bool_]


def exact_similarity(query: Vectors, q: slice | Index, gallery: Vectors, g: Index) -> NDArray[np.float64]:
    """Return the float64 similarities (len(q), len(g)) of queries and gallery images at these positions."""
    q_rows, q_bias, starts = query.take(q, np.float64)
    out = np.empty((len(q_rows) if starts is None else len(starts), len(g)))
    step = max(1, _EXACT_BYTES // (8 * q_rows.shape[1]))
    for start in range(0, len(g), step):
        g_rows, g_bias, _ = gallery.take(g[start : start + step], np.float64)
        piece = q_rows @ g_rows.T
        if query.scale is not None:
            piece += g_bias
            piece += q_bias[:, None]
        out[:, start : start + step] = piece if starts is None else np.maximum.reduceat(piece, starts)
    return out


def exact_pairs(query: Vectors, q: Index, gallery: Vectors, g: Index) -> NDArray[np.float64]:
    """Return the float64 similarities (n,) of queries of one image each with one gallery image each."""
    out = np.empty(len(q))
    step = max(1, _EXACT_BYTES // (16 * query.rows.shape[1]))
    for start in range(0, len(q), step):
        part = slice(start, start + step)
        (a, a_bias, _), (b, b_bias, _) = query.take(q[part], np.float64), gallery.take(g[part], np.float64)
        out[part] = np.einsum("nd,nd->n", a, b)
        if query.scale is not None:
            out[part] += a_bias + b_bias
    return out


def count_ahead(
    query: Vectors,
    gallery: Vectors,
    matches: Sequence[Matches],
    look: Callable[[NDArray[np.float32]], None] | None = None,
) -> list[Index]:
    """Count, for every true match, the images of other identities that rank before it.

    Args:
        query: Vectors of Q queries.
        gallery: Vectors of the gallery, without junk.
        matches: Those of each query, at least one true match in each.
        look: Called with all similarities, in pieces (n, m) of several threads, the query's own identity at -inf.

    Returns:
        For each query (number of true matches,) counts, most similar first.
    """
    true = [most_similar_first(m) for m in matches]
    edges = np.cumsum([0, *(len(s) for s, _ in true)])
    similarity, place = (np.concatenate(column) for column in zip(*true, strict=True))
    ahead = np.zeros(edges[-1], np.int64)

    def add_rows(part: tuple[int, NDArray[np.float32], int, float]) -> None:
        """Add what a few rows of a tile have ahead of their queries' matches."""
        q0, rows, g0, margin = part
        if look is not None:
            look(rows)
        first = edges[q0]
        here = similarity[first : edges[q0 + len(rows)]]
        low, high = (here - margin).astype(np.float32), (here + margin).astype(np.float32)
        doubtful: list[Doubt] = []
        waiting, last = 0, q0 + len(rows) - 1
        for q, row in enumerate(rows, q0):
            mine = slice(edges[q] - first, edges[q + 1] - first)
            above, near = count(row, low[mine], high[mine])
            ahead[edges[q] : edges[q + 1]] += above
            waiting += near.sum()
            for t in np.flatnonzero(near) + mine.start:
                doubtful.append((t + first, q, np.flatnonzero((row >= low[t]) & (row <= high[t]))))
            if doubtful and (q == last or waiting > _DOUBTFUL):
                match = _settle(doubtful, query, gallery, g0, similarity, place)
                np.add.at(ahead, match, 1)
                doubtful, waiting = [], 0

    with threads() as each:
        for q0, g0, tile in _tiles(query, gallery):
            margin = _remove_own(tile, matches[q0 : q0 + len(tile)], g0, query.rows.shape[1])
            starts = range(0, len(tile), _EXACT_QUERIES)
            each(add_rows, [(q0 + r, tile[r : r + _EXACT_QUERIES], g0, margin) for r in starts])
    return np.split(ahead, edges[1:-1])


@contextmanager
def threads() -> Iterator[Callable[[Callable[[Any], object], Sequence[Any]], None]]:
    """Yield a function that calls another on each item of a list: in as many threads as torch has, 8 at most."""
    n = min(torch.get_num_threads(), 8)
    if n == 1:
        yield lambda function, items: deque(map(function, items), 0).clear()
        return
    with ThreadPoolExecutor(n) as pool:
        yield lambda function, items: deque(pool.map(function, items), 0).clear()


def most_similar_first(matches: Matches) -> tuple[NDArray[np.float64], Index]:
    """Return similarity and position of the images that count."""
    similarity = matches.similarity[matches.counts]
    order = np.argsort(-similarity, kind="stable")
    return similarity[order], matches.own[matches.counts][order]


def _settle(
    doubtful: list[Doubt],
    query: Vectors,
    gallery: Vectors,
    g0: int,
    similarity: NDArray[np.float64],
    place: Index,
) -> Index:
    """Decide in float64 what float32 could not; return the true match again for every image that is ahead of it.

    Args:
        doubtful: The values in question, by true match.
        query: As in `count_ahead`.
        gallery: As in `count_ahead`.
        g0: Gallery position of the tile's first column.
        similarity: Of every true match.
        place: Gallery position of every true match.
    """
    lengths = [len(columns) for _, _, columns in doubtful]
    match, of = (np.repeat([d[i] for d in doubtful], lengths) for i in (0, 1))
    column = np.concatenate([columns for _, _, columns in doubtful])
    wanted = np.zeros(column.max() + 1, np.bool_)
    wanted[column] = True
    first, last = doubtful[0][1], doubtful[-1][1]
    if query.edges is None and 16 * len(column) < (last + 1 - first) * np.count_nonzero(wanted):
        difference = exact_pairs(query, of, gallery, column + g0) - similarity[match]
    else:
        exact = exact_similarity(query, slice(first, last + 1), gallery, np.flatnonzero(wanted) + g0)
        difference = exact[of - first, (wanted.cumsum() - 1)[column]] - similarity[match]
    ahead: Index = match[(difference > TIE) | ((difference >= -TIE) & (column + g0 < place[match]))]
    return ahead


def _tiles(query: Vectors, gallery: Vectors) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
    """Yield (first query, first gallery position, float32 similarities).

    The tiles share one buffer: each is valid until the next is drawn, and may be written to.
    """
    width = min(len(gallery), max(1024, _PIECE_BYTES // (4 * gallery.rows.shape[1])))
    height = min(len(query), max(_EXACT_QUERIES, _TILE_BYTES // (4 * width)))
    if query.edges is not None:  # as many queries as have about that many images
        height = max(1, height * len(query) // int(query.edges[-1]))
    buffer = torch.empty(width * height if query.edges is None else 0)
    with progress(desc="Ranking", total=len(gallery) * len(query), unit="pair", unit_scale=True, leave=False) as bar:
        for g0 in range(0, len(gallery), width):
            piece, bias, _ = gallery.take(slice(g0, g0 + width), np.float32)
            columns = torch.from_numpy(piece).T
            for q0 in range(0, len(query), height):
                rows, q_bias, starts = query.take(slice(q0, q0 + height), np.float32)
                if starts is None:
                    out = buffer[: len(rows) * len(piece)].view(len(rows), len(piece))
                    tile: NDArray[np.float32] = torch.mm(torch.from_numpy(rows), columns, out=out).numpy()
                else:
                    tile = (torch.from_numpy(rows) @ columns).numpy()
                if gallery.scale is not None:
                    tile += bias
                    tile += q_bias[:, None]
                tile = tile if starts is None else np.maximum.reduceat(tile, starts)
                yield q0, g0, tile
                bar.update(tile.size)


def _remove_own(tile: NDArray[np.float32], matches: Sequence[Matches], g0: int, dim: int) -> float:
    """Take the images of each query's own identity out of its row; return the error margin of the tile.

    The rounding errors of a product of `dim` terms add up like a random walk; the constants are three times what MKL
    shows. Where a library does worse (TF32, bfloat16 passes), the own images tell, being known exactly.
    """
    row = np.repeat(np.arange(len(tile)), [len(m.own) for m in matches])
    column = np.concatenate([m.own for m in matches]) - g0
    inside = (column >= 0) & (column < tile.shape[1])
    at = row[inside], column[inside]
    seen = np.abs(tile[at] - np.concatenate([m.similarity for m in matches])[inside])
    tile[at] = -np.inf
    usual: float = 2.0**-24 * (12 + 0.5 * dim**0.5)
    return max(usual, 2 * float(seen.max(initial=0)))


def count(row: NDArray[np.float32], low: NDArray[np.float32], high: NDArray[np.float32]) -> tuple[Index, Index]:
    """Return, for every interval [low, high], how many values of `row` are above it and how many within.

    The intervals descend. Working upwards from the last, what is below one interval is of no interest to the others,
    and for a good model that is nearly the whole row; what is left at the end is little enough to be sorted.
    """
    above, within = np.zeros(len(low), np.int64), np.zeros(len(low), np.int64)
    for k in range(len(low) - 1, -1, -1):
        if len(row) <= 200 * (k + 1):
            row = np.sort(row)
            above[: k + 1] = len(row) - row.searchsorted(high[: k + 1], "right")
            within[: k + 1] = len(row) - row.searchsorted(low[: k + 1], "left") - above[: k + 1]
            break
        candidate = row >= low[k]
        at_least = np.count_nonzero(candidate)
        if 8 * at_least < len(row):
            row = row.compress(candidate)
        above[k] = np.count_nonzero(row > high[k])
        within[k] = at_least - above[k]
    return above, within

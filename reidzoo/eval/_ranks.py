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

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from reidzoo._logging import progress

_PIECE_BYTES = 12 << 20  # of prepared rows of either side held at a time
_TILE_BYTES = 24 << 20  # of similarities held at a time by all threads
_EXACT_BYTES = 4 << 20  # of float64 rows held at a time by each thread
_COUNTED = 64  # queries counted for at once, and whose doubtful values are settled together
_DOUBTFUL = 1 << 20  # doubtful values settled together, about
TIE = 1e-12  # float64 similarities of vectors of unit size closer than this are equal

Floats = NDArray[np.floating[Any]]
Index = NDArray[np.int64]
_T = TypeVar("_T")
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
        piece = (torch.from_numpy(q_rows) @ torch.from_numpy(g_rows).T).numpy()
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

    def add_rows(q0: int, rows: NDArray[np.float32], g0: int, margin: float) -> None:
        """Add what a few rows of a tile have ahead of their queries' matches."""
        if look is not None:
            look(rows)
        first = edges[q0]
        here = similarity[first : edges[q0 + len(rows)]]
        low, high = (here - margin).astype(np.float32), (here + margin).astype(np.float32)
        above, near, of = count(rows, low, high, edges[q0 : q0 + len(rows) + 1] - first)
        ahead[first : first + len(above)] += above
        doubtful: list[Doubt] = []
        waiting, uncertain = 0, np.flatnonzero(near)
        for t in uncertain:
            row = rows[of[t]]
            doubtful.append((t + first, q0 + int(of[t]), np.flatnonzero((row >= low[t]) & (row <= high[t]))))
            waiting += near[t]
            if t == uncertain[-1] or waiting > _DOUBTFUL:
                np.add.at(ahead, _settle(doubtful, query, gallery, g0, similarity, place), 1)
                doubtful, waiting = [], 0

    def add_tile(q0: int, tile: NDArray[np.float32], g0: int) -> None:
        margin = _remove_own(tile, matches[q0 : q0 + len(tile)], g0, query.rows.shape[1])
        for r in range(0, len(tile), _COUNTED):
            add_rows(q0 + r, tile[r : r + _COUNTED], g0, margin)

    _each_tile(query, gallery, add_tile)
    return np.split(ahead, edges[1:-1])


@contextmanager
def threads() -> Iterator[tuple[int, Callable[[Callable[[Any], _T], Iterable[Any]], Iterable[_T]]]]:
    """Yield a number of threads, 8 at most, and a `map` that runs in as many, in each of which torch computes alone."""
    n = min(torch.get_num_threads(), 8)
    if n == 1:
        yield 1, map
        return
    try:
        with ThreadPoolExecutor(n, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield n, pool.map
    finally:
        torch.set_num_threads(torch.get_num_threads())  # the number is this thread's own; new threads inherit the last


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


def _each_tile(query: Vectors, gallery: Vectors, use: Callable[[int, NDArray[np.float32], int], None]) -> None:
    """Call `use` with the first query, the float32 similarities and the first gallery position of every tile.

    Calls come from several threads, never two at once for the same queries. A tile may be written to.
    """
    width = min(len(gallery), max(1024, _PIECE_BYTES // (4 * gallery.rows.shape[1])))
    with (
        progress(desc="Ranking", total=len(gallery) * len(query), unit="pair", unit_scale=True, leave=False) as bar,
        threads() as (n, run),
    ):
        height = min(_TILE_BYTES // (4 * width * n), _PIECE_BYTES // (4 * gallery.rows.shape[1] * n))
        height = min(max(_COUNTED, height), -(-len(query) // n))
        if query.edges is not None:  # as many queries as have about that many images
            height = max(1, height * len(query) // int(query.edges[-1]))
        buffers: SimpleQueue[torch.Tensor] = SimpleQueue()
        for _ in range(n):
            buffers.put(torch.empty(0))
        for g0 in range(0, len(gallery), width):
            piece, bias, _ = gallery.take(slice(g0, g0 + width), np.float32)
            columns = torch.from_numpy(piece).T

            def multiply(q0: int, g0: int = g0, columns: torch.Tensor = columns, bias: Floats = bias) -> int:
                rows, q_bias, starts = query.take(slice(q0, q0 + height), np.float32)
                buffer, size = buffers.get(), len(rows) * columns.shape[1]
                if len(buffer) < size:
                    buffer = torch.empty(size)
                out = buffer[:size].view(len(rows), columns.shape[1])
                tile: NDArray[np.float32] = torch.mm(torch.from_numpy(rows), columns, out=out).numpy()
                if gallery.scale is not None:
                    tile += bias
                    tile += q_bias[:, None]
                use(q0, tile if starts is None else np.maximum.reduceat(tile, starts), g0)
                buffers.put(buffer)
                return tile.size

            for pairs in run(multiply, range(0, len(query), height)):
                bar.update(pairs)


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


def count(rows: NDArray[Any], low: NDArray[Any], high: NDArray[Any], edges: Index) -> tuple[Index, Index, Index]:
    """Count, for every interval [low, high], the values of its row that are above it and those within.

    What is below the last interval of its row is of no interest. For a good model that is nearly everything, and the
    few others of all rows are sorted at once, each row moved to a range of its own; else whole rows are sorted.

    Args:
        rows: (n, m) contiguous; where n > 1, values below 4 in size (or -inf), compared to 2^-44.
        low: (k,) lower ends; those of one row descend.
        high: (k,) upper ends, likewise.
        edges: (n + 1,) row r has the intervals ``edges[r]:edges[r + 1]``, at least one.

    Returns:
        (k,) values above, (k,) values within, and (k,) the row.
    """
    n, m = rows.shape
    at = np.flatnonzero(rows >= low[edges[1:] - 1, None])
    of = np.repeat(np.arange(n), np.diff(edges))
    if 8 * len(at) > rows.size:
        above, at_least = np.empty_like(of), np.empty_like(of)
        for start, stop, row in zip(edges, edges[1:], np.sort(rows, axis=1), strict=False):
            above[start:stop] = m - row.searchsorted(high[start:stop], "right")
            at_least[start:stop] = m - row.searchsorted(low[start:stop], "left")
        return above, at_least - above, of
    keys = rows.reshape(-1)[at] + 8.0 * (at // m)
    keys.sort()
    end = at.searchsorted((of + 1) * m)
    above = end - keys.searchsorted(high + 8.0 * of, "right")
    return above, end - keys.searchsorted(low + 8.0 * of, "left") - above, of

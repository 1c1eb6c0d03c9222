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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reidzoo._logging import progress

_PIECE_BYTES = 48 << 20  # of prepared gallery rows held at a time
_TILE_BYTES = 32 << 20  # of similarities held at a time
_EXACT_BYTES = 16 << 20  # of float64 rows held at a time
_EXACT_QUERIES = 64  # queries whose doubtful values are settled together
_DOUBTFUL = 1 << 20  # doubtful values settled together, about
_TIE = 1e-12  # float64 similarities of vectors of unit size closer than this are equal

Floats = NDArray[np.floating[Any]]
Index = NDArray[np.int64]
Doubt = tuple[np.int64, int, Index]  # a true match, its query, columns of the tile that may be ahead of it


@dataclass(frozen=True)
class Vectors:
    """Feature rows and what turns their plain products into similarities of one metric.

    Cosine is the product of the normalised rows (a zero row has cosine 0 with everything). Of the squared Euclidean
    distance ``|q|^2 - 2 (q.g - |g|^2 / 2)`` the first term is the same for the whole gallery, so the bracket ranks as
    the distance does; all rows are divided by one number that brings them to length 1 at most.

    Attributes:
        rows: (N, D) real numbers of any type, possibly a memory map: read in pieces.
        index: Rows that take part, or None for all. Positions below count within these.
        scale: The divisor of the Euclidean rows, or None for cosine.
    """

    rows: NDArray[Any]
    index: Index | None = None
    scale: float | None = None

    def __len__(self) -> int:
        return len(self.rows) if self.index is None else len(self.index)

    def take(self, at: slice | Index, dtype: type[np.floating[Any]]) -> tuple[Floats, Floats | float]:
        """Return the prepared rows at positions `at`, (n, D), and what to add to their products, (n,) or 0."""
        rows = self.rows[at if self.index is None else self.index[at]]
        if self.scale is not None:
            x: Floats = np.divide(rows, dtype(self.scale), dtype=dtype)
            return x, np.einsum("nd,nd->n", x, x) * dtype(-0.5)
        x = rows.astype(dtype, copy=False)
        norm = np.sqrt(np.einsum("nd,nd->n", x, x))
        return x * (1 / np.where(norm > 0, norm, 1)).astype(dtype)[:, None], 0.0


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
    q_rows, _ = query.take(q, np.float64)
    out = np.empty((len(q_rows), len(g)))
    step = max(1, _EXACT_BYTES // (8 * q_rows.shape[1]))
    for start in range(0, len(g), step):
        g_rows, bias = gallery.take(g[start : start + step], np.float64)
        out[:, start : start + step] = q_rows @ g_rows.T + bias
    return out


def count_ahead(query: Vectors, gallery: Vectors, matches: Sequence[Matches]) -> list[Index]:
    """Count, for every true match, the images of other identities that rank before it.

    Args:
        query: Vectors of Q queries.
        gallery: Vectors of the gallery, without junk.
        matches: Those of each query, at least one true match in each.

    Returns:
        For each query (number of true matches,) counts, most similar first.
    """
    true = [_most_similar_first(m) for m in matches]
    edges = np.cumsum([0, *(len(s) for s, _ in true)])
    similarity, place = (np.concatenate(column) for column in zip(*true, strict=True))
    ahead = np.zeros(edges[-1], np.int64)
    for q0, g0, tile in _tiles(query, gallery):
        margin = _remove_own(tile, matches[q0 : q0 + len(tile)], g0, query.rows.shape[1])
        low, high = (similarity - margin).astype(np.float32), (similarity + margin).astype(np.float32)
        doubtful: list[Doubt] = []
        waiting, last = 0, q0 + len(tile) - 1
        for q, row in enumerate(tile, q0):
            mine = slice(edges[q], edges[q + 1])
            above, near = _count(row, low[mine], high[mine])
            ahead[mine] += above
            if near.any():
                waiting += near.sum()
                for t in np.flatnonzero(near) + edges[q]:
                    doubtful.append((t, q, np.flatnonzero((row >= low[t]) & (row <= high[t]))))
            if doubtful and (q == last or q - doubtful[0][1] >= _EXACT_QUERIES or waiting > _DOUBTFUL):
                match = _settle(doubtful, query, gallery, g0, similarity, place)
                ahead += np.bincount(match, minlength=len(ahead))
                doubtful, waiting = [], 0
    return np.split(ahead, edges[1:-1])


def _most_similar_first(matches: Matches) -> tuple[NDArray[np.float64], Index]:
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
    exact = exact_similarity(query, slice(first, last + 1), gallery, np.flatnonzero(wanted) + g0)
    difference = exact[of - first, (wanted.cumsum() - 1)[column]] - similarity[match]
    ahead: Index = match[(difference > _TIE) | ((difference >= -_TIE) & (column + g0 < place[match]))]
    return ahead


def _tiles(query: Vectors, gallery: Vectors) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
    """Yield (first query, first gallery position, float32 similarities).

    The tiles share one buffer: each is valid until the next is drawn, and may be written to.
    """
    width = min(len(gallery), max(1024, _PIECE_BYTES // (4 * gallery.rows.shape[1])))
    height = min(len(query), max(_EXACT_QUERIES, _TILE_BYTES // (4 * width)))
    buffer = torch.empty(width * height)
    with progress(desc="Ranking", total=len(gallery) * len(query), unit="pair", unit_scale=True, leave=False) as bar:
        for g0 in range(0, len(gallery), width):
            piece, bias = gallery.take(slice(g0, g0 + width), np.float32)
            columns = torch.from_numpy(piece).T
            for q0 in range(0, len(query), height):
                rows, _ = query.take(slice(q0, q0 + height), np.float32)
                product = buffer[: len(rows) * len(piece)].view(len(rows), len(piece))
                torch.mm(torch.from_numpy(rows), columns, out=product)
                tile: NDArray[np.float32] = product.numpy()
                if gallery.scale is not None:
                    tile += bias
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


def _count(row: NDArray[np.float32], low: NDArray[np.float32], high: NDArray[np.float32]) -> tuple[Index, Index]:
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
        above[k] = np.count_nonzero(row > high[k])
        within[k] = at_least - above[k]
        if 8 * at_least < len(row):
            row = row.compress(candidate)
    return above, within

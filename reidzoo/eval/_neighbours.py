"""Exact nearest neighbours within one set of features, streamed: the engine under re-ranking and query expansion.

The N x N products are walked in float32 tiles, half of them: the others are their transposes. Of each tile only the
largest few of every row and the smallest are kept. Where float32 cannot tell whether an image is among the first k of
a row, that row's candidates are compared in float64, and equal ones rank by index: the neighbours are those of float64
arithmetic with a stable sort.

Distances do not change when all points are shifted. So the rows are centred in float64 before they are rounded to
float32, and features that hardly differ (a collapsed network) keep their digits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reidzoo._logging import progress

_TILE = 2048  # images on either side of a tile of products
_GROUP = 8  # columns of a tile of which only the largest is looked at first
_CHUNK_BYTES = 16 << 20  # of float64 rows held at a time
_SETTLED = 64  # rows settled together
_DECIMALS = 12  # float64 distances between points of unit size that agree to these are equal


class Points:
    """The rows of several arrays, one after the other, as points whose Euclidean distances are those of one metric.

    Args:
        parts: Arrays (N_i, D) of any real type, possibly memory maps: read in pieces.
        normalise: Scale every row to length 1 first, so that the squared distance is ``2 - 2 cos``. A zero row stays.
        device: Where the float32 points are kept and multiplied.

    Attributes:
        rows: (N, D) float32: centred, and divided by `scale`; none is longer than 1.
        half: (N,) float32, half the squared length of each row.
        scale: What distances between `rows` are multiplied with to be those of the features.
    """

    def __init__(self, parts: Sequence[NDArray[Any]], normalise: bool, device: torch.device) -> None:
        self._parts, self._normalise = parts, normalise
        self._edges = np.cumsum([0, *map(len, parts)])
        dim = parts[0].shape[1]
        mean = np.zeros(dim)
        for _, piece in self._pieces():
            mean += piece.sum(0) / len(self)
        rows = np.empty((len(self), dim), np.float32)
        longest = 0.0
        for start, piece in self._pieces():
            piece -= mean
            longest = max(longest, float(np.einsum("nd,nd->n", piece, piece).max()))
            rows[start : start + len(piece)] = piece
        self.scale = longest**0.5 or 1.0
        rows /= np.float32(self.scale)
        self.rows = torch.from_numpy(rows).to(device)
        self.half = torch.linalg.vecdot(self.rows, self.rows) / 2

    def __len__(self) -> int:
        return int(self._edges[-1])

    def exact(self, at: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the float64 rows at positions `at`, divided by `scale` but not centred."""
        return self._read(at) / self.scale

    def products(self, rows: slice | Tensor, columns: slice) -> Tensor:
        """Return ``x.y - |y|^2 / 2`` for the points x at `rows` and y at `columns`: it descends as distance grows."""
        return torch.addmm(self.half[columns], self.rows[rows], self.rows[columns].T, beta=-1)

    def squared(self, rows: slice, columns: slice) -> Tensor:
        """Return squared distances, in units of `scale`, between the points at `rows` and those at `columns`."""
        return self.products(rows, columns).sub_(self.half[rows, None]).mul_(-2).clamp_(min=0)

    def paired(self, row: Tensor, column: Tensor) -> Tensor:
        """Return the squared distances, in units of `scale`, of the pairs ``(row[i], column[i])``."""
        step = max(1, _CHUNK_BYTES // (8 * self.rows.shape[1]))
        pairs = zip(torch.split(row, step), torch.split(column, step), strict=True)
        return torch.cat([(self.rows[r] - self.rows[c]).square_().sum(1) for r, c in pairs])

    def _read(self, at: NDArray[np.int64]) -> NDArray[np.float64]:
        rows = np.empty((len(at), self._parts[0].shape[1]))
        for part, start in zip(self._parts, self._edges, strict=False):
            mine = (at >= start) & (at < start + len(part))
            rows[mine] = part[at[mine] - start]
        if self._normalise:
            norm = np.sqrt(np.einsum("nd,nd->n", rows, rows))
            rows /= np.where(norm > 0, norm, 1)[:, None]
        return rows

    def _pieces(self) -> Iterator[tuple[int, NDArray[np.float64]]]:
        step = max(1, _CHUNK_BYTES // (8 * self._parts[0].shape[1]))
        for start in range(0, len(self), step):
            yield start, self._read(np.arange(start, min(start + step, len(self))))


@contextmanager
def full_precision() -> Iterator[None]:
    """Multiply float32 matrices in float32 (no TF32, no bfloat16), whatever the user has set for training."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def nearest(points: Points, *counts: int) -> tuple[Tensor, Tensor]:
    """Find the nearest points of every point, itself included.

    Args:
        points: N points.
        counts: Numbers of neighbours whose *sets* must be exact. Within and between these, the order is that of
            float32.

    Returns:
        (N, min(max(counts), N)) int64 positions, nearest first, and (N,) float32 squared distance, in units of
        ``points.scale``, to the furthest point.
    """
    n = len(points)
    cuts = sorted({min(c, n) for c in counts})
    k = cuts[-1]
    best = _Best(points, min(k + 1, n))
    starts = range(0, n, _TILE)
    with progress(desc="Neighbours", total=len(starts) * (len(starts) + 1) // 2, unit="tile", leave=False) as bar:
        for i, j in combinations_with_replacement(starts, 2):
            a, b = slice(i, i + _TILE), slice(j, j + _TILE)
            tile = points.rows[a] @ points.rows[b].T
            if i < j:
                best.offer(b, a, tile.T.contiguous())
            best.offer(a, b, tile)
            bar.update()
    # Twice the rounding error of a product of D terms, which adds up like a random walk (as in `_ranks`).
    margin = 2 * 2.0**-24 * (12 + 0.5 * points.rows.shape[1] ** 0.5)
    rank = best.index[:, :k].contiguous()
    gaps = [best.value[:, cut - 1] - best.value[:, cut] for cut in cuts if cut < n]
    if gaps:
        doubtful = torch.stack(gaps).amin(0) < margin
        for rows in torch.split(doubtful.nonzero().flatten(), _SETTLED):
            rank[rows] = _settle(points, rows, best.value[rows, k - 1] - margin, k)
    return rank, 2 * (points.half - best.lowest)


class _Best:
    """The `k` largest products that every point has been offered, descending, and the smallest."""

    def __init__(self, points: Points, k: int) -> None:
        self.value = points.half.new_full((len(points), k), -torch.inf)
        self.index = torch.zeros((len(points), k), dtype=torch.int64, device=points.half.device)
        self.lowest = torch.full_like(points.half, torch.inf)
        self._half = points.half

    def offer(self, rows: slice, columns: slice, tile: Tensor) -> None:
        """Take what is good of the products of the points at `rows` with those at `columns`; overwrites `tile`."""
        k = self.value.shape[1]
        tile.sub_(self._half[columns])
        torch.minimum(self.lowest[rows], tile.amin(1), out=self.lowest[rows])
        value, index = _largest(tile, min(k, tile.shape[1]))
        value = torch.cat([self.value[rows], value], 1)
        self.value[rows], order = value.topk(k)
        self.index[rows] = torch.cat([self.index[rows], index + columns.start], 1).gather(1, order)


def _largest(tile: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return ``tile.topk(k)``, sooner: the k largest are in the k groups whose own largest are largest."""
    groups = tile.shape[1] // _GROUP
    if groups < 2 * k:
        return tile.topk(k)
    whole = groups * _GROUP
    group = tile[:, :whole].view(-1, _GROUP, groups).amax(1).topk(k, sorted=False).indices
    member = torch.arange(0, whole, groups, device=tile.device)
    rest = torch.arange(whole, tile.shape[1], device=tile.device).expand(len(tile), -1)
    columns = torch.cat([(group[:, :, None] + member).flatten(1), rest], 1)
    values, order = tile.gather(1, columns).topk(k)
    return values, columns.gather(1, order)


def _settle(points: Points, rows: Tensor, floor: Tensor, k: int) -> Tensor:
    """Return the `k` nearest of the points at `rows`, found in float64 among all whose product reaches `floor`."""
    near = points.products(rows, slice(None)) >= floor[:, None]
    row, column = (x.cpu().numpy() for x in near.nonzero(as_tuple=True))
    from_rows = points.exact(rows.cpu().numpy())
    distance = np.empty(len(row))
    step = max(1, _CHUNK_BYTES // (8 * from_rows.shape[1]))
    for start in range(0, len(row), step):
        pairs = slice(start, start + step)
        difference = from_rows[row[pairs]] - points.exact(column[pairs])
        distance[pairs] = np.einsum("nd,nd->n", difference, difference)
    order = np.lexsort((column, distance.round(_DECIMALS), row))
    first = np.searchsorted(row, np.arange(len(rows)))
    settled: NDArray[np.int64] = column[order[first[:, None] + np.arange(k)]]
    return torch.from_numpy(settled).to(rows.device)

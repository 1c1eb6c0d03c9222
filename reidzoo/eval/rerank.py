"""k-reciprocal re-ranking on neighbours only.

Two images are the more alike, the more of their neighbours they share (Zhong et al., "Re-ranking Person
Re-identification with k-reciprocal Encoding", CVPR 2017). The definition speaks of N x N arrays, but an image has a
few dozen neighbours, and a pair that shares none has Jaccard distance 1. So the encodings are kept as sparse rows, and
the distances of a block of queries are made when they are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from reidzoo._logging import progress
from reidzoo.errors import ConfigError
from reidzoo.eval._inputs import METRICS, Metric, check_choice, check_dimensions, feature_rows
from reidzoo.eval._neighbours import Points, full_precision, nearest

RerankConvention = Literal["zhong", "fastreid", "jaccard"]
_CONVENTIONS = ("zhong", "fastreid", "jaccard")
_BLOCK = 512  # rows encoded together
_QUERIES = 64  # queries compared together


@dataclass(frozen=True)
class Rerank:
    """How to re-rank: the settings of `rerank`, for ``compute_metrics(..., rerank=Rerank(k1=30))``.

    Attributes:
        k1: Neighbours of an image that may be reciprocal ones.
        k2: Nearest images, itself included, whose encodings are averaged; 1: none but its own.
        lam: Weight of the original distance, in [0, 1]; 0: Jaccard distance alone.
        convention: See `rerank`.
    """

    k1: int = 20
    k2: int = 6
    lam: float = 0.3
    convention: RerankConvention = "zhong"

    def __post_init__(self) -> None:
        check_choice("convention", self.convention, _CONVENTIONS)
        for name in ("k1", "k2"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if not 0 <= self.lam <= 1:
            raise ConfigError(f"lam is {self.lam}; it must be in [0, 1].")

    def distances(
        self,
        query: ArrayLike | Tensor,
        gallery: ArrayLike | Tensor,
        metric: Metric = "cosine",
        device: str | torch.device = "auto",
    ) -> RerankedDistances:
        """Find and encode the neighbours; the distances themselves are made block by block.

        Args:
            query: As in `rerank`.
            gallery: As in `rerank`.
            metric: As in `rerank`.
            device: As in `rerank`.

        Raises:
            DataError: As from `rerank`.
            ConfigError: As from `rerank`.
        """
        check_choice("metric", metric, METRICS)
        if self.convention == "fastreid" and metric != "cosine":
            raise ConfigError("convention='fastreid' is defined on cosines; use metric='cosine' or convention='zhong'.")
        pair = as_pair(query, gallery)
        with torch.inference_mode(), full_precision():
            return RerankedDistances(Points(pair, metric == "cosine", as_device(device)), len(pair[0]), self)


def rerank(
    query: ArrayLike | Tensor,
    gallery: ArrayLike | Tensor,
    k1: int = 20,
    k2: int = 6,
    lam: float = 0.3,
    *,
    metric: Metric = "cosine",
    convention: RerankConvention = "zhong",
    device: str | torch.device = "auto",
) -> NDArray[np.float32]:
    """Return distances between queries and gallery that also compare their neighbours.

    ``(1 - lam) * J + lam * D`` with the Jaccard distance J of the encoded neighbourhoods among all N = Q + G images
    and the original distance D. No N x N array exists: memory above the inputs and the result is that of one float32
    copy of the features and some 10 kB per image. The neighbours are those of float64 arithmetic; images at equal
    distance are neighbours in the order of queries, then gallery.

    Re-ranking pays where identities have several gallery images, and uses the other queries: say so beside numbers.

    Args:
        query: (Q, D) array or tensor of any real type.
        gallery: (G, D), likewise.
        k1: Neighbours of an image that may be reciprocal ones.
        k2: Nearest images, itself included, whose encodings are averaged; 1: none but its own.
        lam: Weight of the original distance, in [0, 1].
        metric: ``"cosine"`` normalises the rows first (a zero row stays zero); ``"euclidean"`` takes them as they are.
        convention: What D is, and how many neighbours count. ``"zhong"``: the squared Euclidean distance, divided by
            the query's largest one; k1 neighbours and the image itself (the original; TransReID and ReIDZoo with
            ``metric="cosine"``). ``"fastreid"``: likewise with ``(1 - cos)^2`` (fast-reid of the ReIDZoo tables,
            MetaBIN; layumi's ``(2 - 2 cos)^2`` is the same). ``"jaccard"``: today's fast-reid; k1 neighbours with the
            image itself, weights of the undivided squared distance d, and D = d / 2, that is ``1 - cos``.
        device: Where to compute; ``"auto"``: a GPU if there is one.

    Returns:
        (Q, G) float32, smaller is more alike; in [0, 1], but up to ``(1 - lam) + lam * max(D)`` with ``"jaccard"``.
        For a gallery too large for that, see `Rerank.distances`.

    Raises:
        DataError: Shapes that do not fit, an empty side, or features that are NaN or infinite.
        ConfigError: `k1`, `k2` or `lam` out of range, an unknown `metric` or `convention`, or ``"fastreid"`` with
            ``"euclidean"``.
    """
    distances = Rerank(k1, k2, lam, convention).distances(query, gallery, metric, device)
    out = np.empty(distances.shape, np.float32)
    with progress(desc="Re-ranking", total=len(out), unit="query", leave=False) as bar:
        for start in range(0, len(out), _BLOCK):
            block = distances.block(start, min(start + _BLOCK, len(out)))
            out[start : start + _BLOCK] = block
            bar.update(len(block))
    return out


@dataclass(frozen=True)
class Encoding:
    """Sparse non-negative rows that sum to 1: what an image's neighbourhood is made of.

    Attributes:
        start: (N + 1,) where each row begins in `column` and `value`.
        column: Positions of the neighbours, ascending within a row.
        value: Their float32 weights.
    """

    start: Tensor
    column: Tensor
    value: Tensor

    def entries(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return, for all entries of `rows` in turn, the position in `rows` and the position in `column`."""
        return _spans(self.start[rows], self.start[rows + 1])

    def transposed(self, first: int) -> Encoding:
        """Return the columns of the rows from `first` on: `column` is then a row's position after `first`."""
        begin = int(self.start[first])
        order = self.column[begin:].argsort(stable=True)
        row = torch.repeat_interleave(self.start[first:].diff())
        count = torch.bincount(self.column[begin:], minlength=len(self.start) - 1)
        return Encoding(_edges(count), row[order], self.value[begin:][order])


class RerankedDistances:
    """The distances of `rerank`, made for a block of queries at a time.

    Attributes:
        shape: (Q, G).
    """

    def __init__(self, points: Points, queries: int, settings: Rerank) -> None:
        self._points, self._settings = points, settings
        self.shape = queries, len(points) - queries
        self._encoding, furthest = encode(points, settings)
        self._gallery = self._encoding.transposed(queries)
        self._unit = _unit(points, furthest, settings)[:queries]

    def block(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return the distances of queries `start` to `stop` from the whole gallery, (stop - start, G) float32."""
        lam, queries = self._settings.lam, self.shape[0]
        with torch.inference_mode(), full_precision():
            distance = self._jaccard(start, stop).mul_(1 - lam)
            if lam > 0:
                rows = slice(start, stop)
                original = self._points.squared(rows, slice(queries, None)).mul_(self._unit[rows, None])
                if self._settings.convention == "fastreid":
                    original.square_()
                elif self._settings.convention == "jaccard":
                    original.div_(2)
                distance.add_(original, alpha=lam)
            result: NDArray[np.float32] = distance.cpu().numpy()
        return result

    def _jaccard(self, start: int, stop: int) -> Tensor:
        """``1 - sum(min) / sum(max)`` over the entries of two rows; the larger ones sum to 2 - sum(min)."""
        out = self._points.rows.new_zeros((stop - start, self.shape[1]))
        for first in range(start, stop, _QUERIES):
            block = torch.arange(first, min(first + _QUERIES, stop), device=out.device)
            query, entry = self._encoding.entries(block)
            shared, at = self._gallery.entries(self._encoding.column[entry])
            least = torch.minimum(self._encoding.value[entry][shared], self._gallery.value[at])
            cell = (query + first - start)[shared] * self.shape[1] + self._gallery.column[at]
            out.view(-1).index_add_(0, cell, least)
        return out.div_(2 - out).neg_().add_(1).clamp_(min=0)


def encode(points: Points, settings: Rerank) -> tuple[Encoding, Tensor]:
    """Encode every point by its expanded k-reciprocal neighbours.

    Args:
        points: N points.
        settings: `k1`, `k2` and `convention` are read.

    Returns:
        N sparse rows, and (N,) squared distances to the furthest point, in units of ``points.scale``.
    """
    own = settings.convention != "jaccard"  # does the image count on top of its k1 neighbours?
    k, half = settings.k1 + own, round(settings.k1 / 2) + 1  # half to even, as numpy's around
    k, half, k2 = (min(x, len(points)) for x in (k, half, settings.k2))
    rank, furthest = nearest(points, k, half, k2)
    unit = _unit(points, furthest, settings)
    mutual, mutual_half = _reciprocal(rank[:, :k]), _reciprocal(rank[:, :half])
    parts = []
    for start in range(0, len(points), _BLOCK):
        rows = slice(start, start + _BLOCK)
        row, column = _expanded(rank[:, :k], mutual, mutual_half, rows)
        distance = points.paired(row + start, column).mul_(unit[row + start])
        weight = torch.exp(-(distance.square_() if settings.convention == "fastreid" else distance))
        count = torch.bincount(row, minlength=len(rank[rows]))
        total = torch.zeros_like(unit[rows]).index_add_(0, row, weight)
        parts.append((count, column, weight / total[row]))
    encoding = _joined(parts)
    return (_averaged(encoding, rank[:, :k2]) if k2 > 1 else encoding), furthest


def _unit(points: Points, furthest: Tensor, settings: Rerank) -> Tensor:
    """What a row's squared distances are multiplied with: the furthest becomes 1, or they become the features'."""
    if settings.convention == "jaccard":
        return torch.full_like(furthest, points.scale**2)
    return torch.where(furthest > 0, furthest, 1).reciprocal()


def _reciprocal(rank: Tensor) -> Tensor:
    """Return (N, k) booleans: has the neighbour this image among its own k?"""
    me = torch.arange(len(rank), device=rank.device)[:, None, None]
    blocks = zip(torch.split(rank, _BLOCK), torch.split(me, _BLOCK), strict=True)
    return torch.cat([(rank[neighbours] == i).any(2) for neighbours, i in blocks])


def _expanded(rank: Tensor, mutual: Tensor, mutual_half: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
    """Return the expanded reciprocal neighbours of `rows`, as pairs (row from 0, column), ascending.

    The half-size reciprocal set of a reciprocal neighbour is added whole if more than two thirds of it are reciprocal
    neighbours already.
    """
    neighbour, is_mutual = rank[rows], mutual[rows]
    row = torch.arange(len(neighbour), device=rank.device)[:, None].expand_as(neighbour)
    member = rank[neighbour, : mutual_half.shape[1]]  # (b, k, half)
    is_member = mutual_half[neighbour] & is_mutual[:, :, None]
    known = torch.where(is_mutual, neighbour, -1)
    inside = torch.stack([(m[:, :, None] == known[:, None]).any(2) for m in member.unbind(1)], 1) & is_member
    is_member &= (3 * inside.sum(2) > 2 * is_member.sum(2))[:, :, None]
    of = row[:, :, None].expand_as(member)
    key = torch.cat([(row * len(rank) + neighbour)[is_mutual], (of * len(rank) + member)[is_member]])
    key = torch.unique_consecutive(key.sort().values)
    return key // len(rank), key % len(rank)


def _averaged(encoding: Encoding, rank: Tensor) -> Encoding:
    """Replace each row by the mean of the rows of its nearest images, itself included."""
    n, k = rank.shape
    parts = []
    for neighbours in torch.split(rank, _BLOCK):
        which, entry = encoding.entries(neighbours.flatten())
        key, order = ((which // k) * n + encoding.column[entry]).sort()
        key, place = torch.unique_consecutive(key, return_inverse=True)
        value = torch.zeros(len(key), device=key.device).index_add_(0, place, encoding.value[entry[order]] / k)
        parts.append((torch.bincount(key // n, minlength=len(neighbours)), key % n, value))
    return _joined(parts)


def _joined(parts: list[tuple[Tensor, Tensor, Tensor]]) -> Encoding:
    """Put (entries per row, columns, values) of consecutive rows together."""
    count, column, value = (torch.cat(x) for x in zip(*parts, strict=True))
    return Encoding(_edges(count), column, value)


def _edges(count: Tensor) -> Tensor:
    return torch.cat([count.new_zeros(1), count.cumsum(0)])


def _spans(start: Tensor, stop: Tensor) -> tuple[Tensor, Tensor]:
    """Return the numbers of all the spans in turn, and with each the span that it belongs to, span first."""
    length = stop - start
    span = torch.repeat_interleave(length)
    before = length.cumsum(0) - length
    return span, torch.arange(len(span), device=span.device) + (start - before)[span]


def as_pair(query: ArrayLike | Tensor, gallery: ArrayLike | Tensor) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the features of both sides as finite arrays (Q, D) and (G, D), or raise `DataError`."""
    pair = feature_rows("query", query), feature_rows("gallery", gallery)
    check_dimensions(*pair)
    return pair


def as_device(device: str | torch.device) -> torch.device:
    """Return `device`; ``"auto"`` is a GPU if there is one."""
    if device != "auto":
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")

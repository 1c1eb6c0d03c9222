"""Ranks of the true matches where the distances are given, such as re-ranked ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast
from typing import Protocol as Structure

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from reidzoo.errors import DataError
from reidzoo.eval._inputs import Images, Index, as_array
from reidzoo.eval._ranks import Matches, count, most_similar_first
from reidzoo.eval.protocols import Protocol
from reidzoo.eval.scores import Impostors, Scores

_BLOCK_BYTES = 16 << 20  # of distances held at a time


class DistanceBlocks(Structure):
    """Distances of queries and gallery, made when they are asked for."""

    @property
    def shape(self) -> tuple[int, int]:
        """Number of queries and of gallery images."""

    def block(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return the distances of queries `start` to `stop`, (stop - start, G)."""


@dataclass(frozen=True, eq=False)
class _Matrix:
    values: NDArray[Any]

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape[0], self.values.shape[1]

    def block(self, start: int, stop: int) -> NDArray[Any]:
        return self.values[start:stop]


def as_blocks(distances: ArrayLike | torch.Tensor | DistanceBlocks) -> DistanceBlocks:
    """Return `distances` with the interface of `DistanceBlocks`; a matrix is checked for its shape and type."""
    if hasattr(distances, "block"):
        return cast("DistanceBlocks", distances)
    values = as_array(cast("ArrayLike", distances))
    if values.ndim != 2 or values.size == 0 or values.dtype.kind not in "fiu":
        raise DataError(
            f"The distances are {values.dtype} of shape {values.shape}; expected real numbers (queries, gallery), at "
            "least one of each."
        )
    return _Matrix(values)


def find_given_matches(
    blocks: DistanceBlocks, query: Images, gallery: Images, kept: Index, rules: Protocol
) -> tuple[Index, list[Matches], list[Index], Scores]:
    """Rank block by block.

    Args:
        blocks: Distances of Q queries and all gallery images.
        query: The Q queries.
        gallery: The images that are no junk,
        kept: and their columns in `blocks`.
        rules: Which of them count.

    Returns:
        The queries that have a true match, ascending; the matches of each, similarity being the negative distance; the
        images of other identities ahead of each true match, most similar first; the distances of pairs.
    """
    order = np.argsort(gallery.ids, kind="stable")
    first, last = (gallery.ids[order].searchsorted(query.ids, side) for side in ("left", "right"))
    valid: list[int] = []
    matches: list[Matches] = []
    ahead: list[Index] = []
    impostors = Impostors(len(query.ids) * len(kept), lambda similarity: -similarity)
    step = max(1, _BLOCK_BYTES // (8 * blocks.shape[1]))
    for start in range(0, len(query.ids), step):
        tile = _similarities(blocks, start, min(start + step, len(query.ids)), kept)
        used = []
        for q, row in enumerate(tile, start):
            own = order[first[q] : last[q]]
            counts = rules.counts(query.cams[q : q + 1], gallery.cams[own])[0]
            if not counts.any():
                continue
            match = Matches(own, row[own].astype(np.float64), counts)
            row[own] = -np.inf
            valid.append(q)
            matches.append(match)
            ahead.append(_ahead(row, match))
            used.append(q - start)
        if used:
            impostors.add(tile if len(used) == len(tile) else tile[used])
    genuine = [-m.similarity[m.counts] for m in matches]
    pairs = len(valid) * len(kept) - sum(len(m.own) for m in matches)
    scores = impostors.scores(np.concatenate([*genuine, np.empty(0)]), pairs)
    return np.array(valid, np.int64), matches, ahead, scores


def _similarities(blocks: DistanceBlocks, start: int, stop: int, kept: Index) -> NDArray[Any]:
    """Return the negative distances of the block: a copy, to be written to."""
    block = as_array(blocks.block(start, stop))
    dtype = block.dtype if block.dtype.kind == "f" and block.dtype.itemsize >= 4 else np.float64
    tile: NDArray[Any] = np.negative(block if len(kept) == block.shape[1] else block[:, kept], dtype=dtype)
    wrong = np.flatnonzero(np.isnan(tile).any(axis=1))
    if len(wrong):
        raise DataError(f"The distances contain NaN (first rows: {(wrong[:5] + start).tolist()}).")
    return tile


def _ahead(row: NDArray[Any], match: Matches) -> Index:
    similarity, place = most_similar_first(match)
    value = similarity.astype(row.dtype)
    above, equal, _ = count(row[None], value, value, np.array([0, len(value)]))
    for k in np.flatnonzero(equal):
        above[k] += np.count_nonzero(row[: place[k]] == value[k])
    return above

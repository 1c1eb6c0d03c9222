"""The CMC curve of galleries with one image per identity: CUHK03's first protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from reidzoo.eval._inputs import Index
from reidzoo.eval._ranks import TIE, Matches

_BLOCK_BYTES = 8 << 20  # of float64 similarities held at a time


def single_shot_cmc(
    similarity: Callable[[slice, Index], NDArray[np.float64]],
    matches: Sequence[Matches],
    gallery_ids: Index,
    max_rank: int,
    repeats: int,
    seed: int,
) -> NDArray[np.float64]:
    """Return the average curve of `repeats` galleries that are drawn at random.

    A draw takes one image of every identity; of a query's own identity, one of its true matches.

    Args:
        similarity: Of a range of queries and gallery images at (n,) positions: (q, n).
        matches: Those of each query.
        gallery_ids: (G,) identities.
        max_rank: Last rank.
        repeats: Number of draws, at least 1.
        seed: Of the draws; a draw depends on the gallery and its number only.

    Returns:
        (max_rank + 1,), as `EvalResult.cmc`.
    """
    mine = gallery_ids[[m.own[0] for m in matches]]
    found = np.zeros(max_rank + 1)
    for repeat in range(repeats):
        rng = np.random.default_rng([seed, repeat])
        shuffled = rng.permutation(len(gallery_ids))
        ids, at = np.unique(gallery_ids[shuffled], return_index=True)
        shot, column = shuffled[at], ids.searchsorted(mine)
        pick = np.array([rng.choice(np.flatnonzero(m.counts)) for m in matches])
        step = max(1, _BLOCK_BYTES // (8 * len(shot)))
        for start in range(0, len(matches), step):
            part = slice(start, start + step)
            some = [(m.similarity[p], m.own[p]) for m, p in zip(matches[part], pick[part], strict=True)]
            value, place = (np.array(x)[:, None] for x in zip(*some, strict=True))
            difference = similarity(part, shot) - value
            ahead = (difference > TIE) | ((difference >= -TIE) & (shot < place))
            ahead[np.arange(len(ahead)), column[part]] = False
            found += (ahead.sum(axis=1)[:, None] < np.arange(max_rank + 1)).sum(axis=0)
    return found / (repeats * len(matches))

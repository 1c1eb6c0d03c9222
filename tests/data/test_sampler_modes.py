"""The ways in which CION's release plans an epoch, and plain shuffled batches, against slow re-tellings of them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from reidzoo.data.samplers import GradualIdentitySampler, ShuffleSampler
from reidzoo.errors import ConfigError

COUNTS = [1, 2, 3, 5, 8, 13, 21, 30, 7, 4, 9, 40]
PIDS = np.repeat(np.arange(len(COUNTS)), COUNTS)


def plans(cls: type, ranks: int, **options: object) -> list[np.ndarray]:
    return [cls(world_size=ranks, rank=r, **options).epoch(0)[..., 0] for r in range(ranks)]


def test_shuffled_batches_use_every_image_at_most_once_and_ranks_share_them() -> None:
    one = ShuffleSampler(103, batch_size=8, seed=3)
    plan = one.epoch(0)
    assert plan.shape == (12, 8, 2)
    assert len(np.unique(plan[..., 0])) == 96
    assert (plan[..., 1] == 0).all()
    assert not np.array_equal(plan, one.epoch(1))
    left_out = {e: set(range(103)) - set(one.epoch(e)[..., 0].ravel().tolist()) for e in (0, 1)}
    assert left_out[0] != left_out[1]
    two = [ShuffleSampler(103, batch_size=4, seed=3, world_size=2, rank=r).epoch(0) for r in range(2)]
    assert np.array_equal(np.concatenate(two, axis=1), plan)
    first = Counter(int(ShuffleSampler(5, batch_size=1, seed=s).epoch(0)[0, 0, 0]) for s in range(1000))
    assert min(first.values()) > 150


def test_too_few_images_are_said() -> None:
    with pytest.raises(ConfigError, match=r"8 images on each of 2 ranks needs 16.*have 10. Choose batch_size=5 or"):
        ShuffleSampler(10, batch_size=8, world_size=2)


def test_rank_slices_are_consecutive_parts_of_what_one_rank_would_see() -> None:
    """The release: the flat list of one epoch, drawn P ids per rank at a time, cut into W parts of whole groups."""
    k, batch, ranks = 4, 12, 2
    options = {"pids": PIDS, "batch_size": batch, "num_instances": k, "remainder": "reference", "seed": 5}
    flat = GradualIdentitySampler(**options).epoch(0)[..., 0].ravel()  # on one rank, slices are no slices
    share = len(flat) // ranks // k * k
    for r, mine in enumerate(plans(GradualIdentitySampler, ranks, rank_slices=True, **options)):
        part = flat[r * share : (r + 1) * share]
        assert np.array_equal(mine.ravel(), part[: share // batch * batch])
        groups = PIDS[mine].reshape(-1, k)
        assert (groups == groups[:, :1]).all()
    assert share % batch, "a share of whole batches would not show groups that straddle"


def test_wrapped_tail_is_one_more_batch_with_all_that_was_left() -> None:
    options = {"pids": PIDS, "batch_size": 12, "num_instances": 2, "seed": 1}
    short = GradualIdentitySampler(**options).epoch(0)
    whole = GradualIdentitySampler(tail="wrap", **options).epoch(0)
    assert np.array_equal(whole[:-1], short)
    ids = PIDS[whole[-1, :, 0]]
    assert len(set(ids.tolist())) == 6
    assert (ids.reshape(-1, 2) == ids.reshape(-1, 2)[:, :1]).all()
    # Those that had blocks left are all in it; they give images that did not come up before, the others do.
    blocks = {i: -(-n // 2) for i, n in enumerate(COUNTS)}
    used = Counter(PIDS[short[..., 0]].reshape(-1, 2)[:, 0].tolist())
    left = {i for i, n in blocks.items() if used[i] < n}
    assert left
    assert left < set(ids.tolist())
    for i in left:
        fresh = whole[-1, ids == i, 0]
        assert COUNTS[i] % 2 or not set(fresh.tolist()) & set(short[..., 0].ravel().tolist())


def test_released_estimate_of_an_epoch() -> None:
    """Sum over ids of max(n, K) - max(n, K) mod K, shared by ranks, in whole batches, at the first K."""
    sampler = GradualIdentitySampler(
        PIDS, batch_size=12, num_instances=((0, 2), (1, 4)), world_size=2, remainder="reference"
    )
    images = sum(max(n, 2) - max(n, 2) % 2 for n in COUNTS)
    assert sampler.released_steps() == images // 2 // 12

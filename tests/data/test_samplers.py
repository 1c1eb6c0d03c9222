from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from reidzoo.data.samplers import CION_INSTANCES, GradualIdentitySampler, PKSampler
from reidzoo.errors import ConfigError, DataError


@st.composite
def setups(draw: st.DrawFn) -> tuple[np.ndarray, dict[str, object]]:
    """Shuffled pids with gaps, and sampler settings that fit them."""
    counts = draw(st.lists(st.integers(1, 12), min_size=2, max_size=30))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    pids = np.repeat(rng.choice(1000, len(counts), replace=False), counts)
    k = draw(st.integers(1, 5))
    world = draw(st.integers(1, 3))
    per_rank = draw(st.integers(1, 4))
    short_ids = draw(st.sampled_from(["replace", "cycle", "drop"]))
    usable = sum(n >= k for n in counts) if short_ids == "drop" else len(counts)
    assume(per_rank * world <= usable)
    options = {
        "batch_size": per_rank * k,
        "num_instances": k,
        "world_size": world,
        "seed": draw(st.integers(0, 5)),
        "remainder": draw(st.sampled_from(["pad", "reference", "drop"])),
        "short_ids": short_ids,
    }
    return rng.permutation(pids), options


def global_plan(pids: np.ndarray, options: dict[str, object], epoch: int) -> np.ndarray:
    ranks = range(int(options["world_size"]))  # type: ignore[call-overload]
    return np.concatenate([GradualIdentitySampler(pids, rank=r, **options).epoch(epoch) for r in ranks], axis=1)


@given(setups(), st.integers(0, 3))
def test_every_batch_is_p_distinct_identities_in_runs_of_k(setup: tuple, epoch: int) -> None:
    pids, options = setup
    k = options["num_instances"]
    plan = global_plan(pids, options, epoch)
    assert plan.dtype == np.int64
    assert len(plan) >= 1
    groups = pids[plan[..., 0]].reshape(len(plan), -1, k)
    assert (groups == groups[:, :, :1]).all()
    for step in groups[:, :, 0]:
        assert len(set(step.tolist())) == len(step)  # so ranks hold disjoint identities


@given(setups(), st.integers(0, 3))
def test_ranks_share_what_one_rank_would_see(setup: tuple, epoch: int) -> None:
    pids, options = setup
    alone = {**options, "world_size": 1, "batch_size": options["batch_size"] * options["world_size"]}
    sampler = GradualIdentitySampler(pids, **alone)
    assert np.array_equal(global_plan(pids, options, epoch), sampler.epoch(epoch))
    assert sampler.steps(epoch) == GradualIdentitySampler(pids, **options).steps(epoch)


@given(setups())
def test_plan_depends_on_seed_and_epoch_alone(setup: tuple) -> None:
    pids, options = setup
    sampler = GradualIdentitySampler(pids, **options)
    first, second = sampler.epoch(0), sampler.epoch(1)
    np.random.seed(1)  # must not matter
    assert np.array_equal(sampler.epoch(0), first)
    assert np.array_equal(GradualIdentitySampler(pids, **options).epoch(1), second)


@given(setups())
def test_draw_counts_the_earlier_uses_of_an_image(setup: tuple) -> None:
    pids, options = setup
    seen: dict[int, int] = {}
    for index, draw in global_plan(pids, options, 0).reshape(-1, 2).tolist():
        assert draw == seen.get(index, 0)
        seen[index] = draw + 1


@given(setups())
def test_coverage(setup: tuple) -> None:
    """What the tail leaves belongs to fewer than P identities; all others give exactly what their rule says."""
    pids, options = setup
    k, remainder, short = options["num_instances"], options["remainder"], options["short_ids"]
    plan = global_plan(pids, options, 0)
    uses = np.bincount(plan[..., 0].reshape(-1), minlength=len(pids))
    unfinished = 0
    for pid in np.unique(pids):
        mine = uses[pids == pid]
        n = len(mine)
        rest = n % k
        if n < k:
            full = 0 if short == "drop" else 1
        else:
            full = (n + {"pad": (k - rest) % k, "reference": rest, "drop": 0}[remainder]) // k
        assert mine.sum() % k == 0
        assert mine.sum() <= full * k
        if mine.sum() < full * k:
            unfinished += 1
        elif n < k and short == "cycle":
            assert set(mine.tolist()) <= {k // n, -(-k // n)}
        elif n >= k:
            assert mine.max() <= (1 if remainder == "drop" else 2)
            if remainder == "pad":
                assert mine.min() >= 1
    assert unfinished < options["batch_size"] * options["world_size"] // k


TABLE = {  # blocks per identity of n images: first n, then K = 2, 4, 6, 8
    1: (1, 1, 1, 1), 2: (1, 1, 1, 1), 3: (2, 1, 1, 1), 5: (3, 1, 1, 1), 7: (4, 2, 1, 1), 8: (4, 2, 1, 1),
    9: (5, 2, 2, 1), 11: (6, 3, 2, 1), 12: (6, 3, 2, 2),
    15: (8, 4, 3, 2), 16: (8, 4, 3, 2), 19: (10, 5, 3, 2), 20: (10, 5, 3, 3),
}  # fmt: skip


@pytest.mark.parametrize("n", TABLE)
def test_reference_rule_gives_the_released_block_counts(n: int) -> None:
    for k, blocks in zip((2, 4, 6, 8), TABLE[n], strict=True):
        sampler = GradualIdentitySampler(
            np.repeat(np.arange(3), n), batch_size=k, num_instances=k, remainder="reference"
        )
        assert sampler.steps(0) == 3 * blocks


def released_process(counts: list[int], k: int, p: int, rng: np.random.Generator) -> int:
    """Steps of one epoch by the released procedure, written plainly."""
    queue = {i: max(k, n + n % k) // k if n >= k else 1 for i, n in enumerate(counts)}
    steps = 0
    while len(queue) >= p:
        for i in rng.choice(sorted(queue), p, replace=False).tolist():
            queue[i] -= 1
            if not queue[i]:
                del queue[i]
        steps += 1
    return steps


def test_steps_follow_the_distribution_of_the_released_process() -> None:
    counts = [1, 2, 3, 5, 8, 13, 21, 30] * 4
    pids = np.repeat(np.arange(len(counts)), counts)
    rng = np.random.default_rng(0)
    plain = [released_process(counts, 4, 6, rng) for _ in range(300)]
    ours = [
        GradualIdentitySampler(pids, batch_size=24, num_instances=4, seed=s, remainder="reference").steps(0)
        for s in range(300)
    ]
    error = np.hypot(np.std(plain), np.std(ours)) / np.sqrt(300)
    assert abs(np.mean(plain) - np.mean(ours)) < 4 * error
    assert 0.6 < np.std(ours) / np.std(plain) < 1.6


def test_identities_and_images_are_drawn_uniformly() -> None:
    pids = np.repeat(np.arange(10), 7)
    first_ids, first_images = np.zeros(10), np.zeros(7)
    for seed in range(2000):
        plan = GradualIdentitySampler(pids, batch_size=4, num_instances=2, seed=seed).epoch(0)
        first_ids[pids[plan[0, 0, 0]]] += 1
        first_images[plan[0, 0, 0] % 7] += 1
    for observed in (first_ids, first_images):
        expected = 2000 / len(observed)
        assert ((observed - expected) ** 2 / expected).sum() < 35  # chi-squared, 9 degrees of freedom: p < 1e-4


def test_schedule_of_cion() -> None:
    sampler = GradualIdentitySampler(np.repeat(np.arange(60), 9), batch_size=24)
    expected = {0: 2, 39: 2, 40: 4, 59: 4, 60: 6, 79: 6, 80: 8, 99: 8, 100: 8, 5000: 8}
    assert {e: sampler.num_instances(e) for e in expected} == expected
    assert CION_INSTANCES == ((0, 2), (40, 4), (60, 6), (80, 8))
    for epoch, k in ((39, 2), (40, 4)):
        pids = sampler.epoch(epoch)[..., 0] // 9
        assert (pids.reshape(-1, k) == pids.reshape(-1, k)[:, :1]).all()
    assert not np.array_equal(sampler.epoch(0), sampler.epoch(1))


@given(setups())
@settings(max_examples=30)
def test_pk_sampler_uses_an_image_once_unless_its_identity_is_short(setup: tuple) -> None:
    pids, options = setup
    k = options["num_instances"]
    assume(len(np.unique(pids)) >= options["batch_size"] * options["world_size"] // k)
    ours = {name: options[name] for name in ("batch_size", "num_instances", "world_size", "seed")}
    plan = PKSampler(pids, **ours).epoch(0)
    counts = np.bincount(pids)
    long = counts[pids[plan[..., 0]]] >= k
    assert (plan[..., 1][long] == 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 30}, r"batch_size 30 cannot be divided .*2, 4, 6, 8. Choose a multiple of 24, .*batch_size=24"),
        ({"batch_size": 10, "num_instances": 4}, "multiple of 4, for example batch_size=8"),
        ({"batch_size": 24, "num_instances": 2}, "2 per identity, needs 12 .* have 10 .*batch_size=20 or"),
        ({"batch_size": 12, "num_instances": 2, "world_size": 4}, r"needs 24 identities.*batch_size=4 or less"),
        ({"batch_size": 8, "num_instances": 4, "short_ids": "drop"}, "needs 2 identities; the data have 0 .*Use more"),
        ({"batch_size": 8, "num_instances": 2, "rank": 2, "world_size": 2}, "rank is 2; expected 0 to 1"),
        ({"batch_size": 8, "num_instances": 0}, "expected 1 or more"),
        ({"batch_size": 8, "num_instances": [(1, 2)]}, r"first epochs \[1\]; expected 0 first"),
        ({"batch_size": 8, "num_instances": [(0, 2), (0, 4)]}, "then increasing"),
        ({"batch_size": 8, "num_instances": 2, "seed": -1}, "seed is -1"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GradualIdentitySampler(np.repeat(np.arange(10), 3), **options)


def test_junk_is_refused() -> None:
    with pytest.raises(DataError, match="1 of 3 pids are negative"):
        PKSampler([-1, 2, 2], batch_size=2, num_instances=2)


def test_a_quarter_million_identities_are_planned() -> None:
    """Anything that is quadratic in them would not end."""
    counts = np.random.default_rng(0).integers(1, 31, 250_000)
    sampler = GradualIdentitySampler(np.repeat(np.arange(250_000), counts), batch_size=120, world_size=8)
    assert sampler.steps(0) > 3000

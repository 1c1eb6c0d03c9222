"""What every sampler promises, and what the domain-balanced one adds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reidzoo.data.domain_sampler import DomainSampler
from reidzoo.data.loaders import EpochBatches
from reidzoo.data.samplers import GradualIdentitySampler, PKSampler
from reidzoo.errors import ConfigError, DataError

Make = Callable[..., Any]  # (rank=, world_size=, batch_size=) -> sampler


@st.composite
def people(draw: st.DrawFn, domains: int) -> tuple[np.ndarray, np.ndarray]:
    """pids and domains of shuffled images: 6 to 12 identities with 1 to 9 images in each domain, some in two."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    pids, where = [], []
    for domain in range(domains):
        for pid in rng.choice(40, int(rng.integers(6, 13)), replace=False):
            n = int(rng.integers(1, 10))
            pids += [pid] * n
            where += [10 * domain + 3] * n  # numbers with gaps
    order = rng.permutation(len(pids))
    return np.array(pids)[order], np.array(where)[order]


@st.composite
def makers(draw: st.DrawFn) -> tuple[str, Make, np.ndarray]:
    """A kind of sampler for up to three ranks; `batch_size` 12 fits all of them."""
    kind = draw(st.sampled_from(["gradual", "pk", "domain"]))
    seed = draw(st.integers(0, 3))
    pids, domains = draw(people(3))
    if kind == "gradual":
        return kind, lambda **o: GradualIdentitySampler(pids, num_instances=((0, 4), (2, 6)), seed=seed, **o), pids
    if kind == "pk":
        return kind, lambda **o: PKSampler(pids, num_instances=4, seed=seed, **o), pids
    remainder = draw(st.sampled_from(["pad", "reference", "drop"]))
    return (
        kind,
        lambda **o: DomainSampler(pids, domains, num_instances=2, seed=seed, remainder=remainder, **o),
        pids,
    )


@given(makers(), st.integers(1, 3), st.integers(0, 3))
@settings(max_examples=60)
def test_ranks_take_equally_many_steps_and_share_no_image(
    maker: tuple[str, Make, np.ndarray], world: int, epoch: int
) -> None:
    kind, make, pids = maker
    if kind != "domain" and len(np.unique(pids)) < 12 * world // 4:
        world = 1
    samplers = [make(batch_size=12, world_size=world, rank=rank) for rank in range(world)]
    plans = [sampler.epoch(epoch) for sampler in samplers]
    assert len({plan.shape for plan in plans}) == 1
    assert plans[0].shape[1:] == (12, 2)
    assert all(sampler.steps(epoch) == len(plans[0]) for sampler in samplers)
    for step in range(len(plans[0])):
        images = [set(plan[step, :, 0].tolist()) for plan in plans]
        assert len(set().union(*images)) == sum(map(len, images))


@given(makers(), st.integers(0, 3))
@settings(max_examples=40)
def test_steps_do_not_depend_on_the_number_of_ranks(maker: tuple[str, Make, np.ndarray], epoch: int) -> None:
    kind, make, pids = maker
    if kind == "pk" and len(np.unique(pids)) < 6:
        return
    alone = make(batch_size=24, world_size=1, rank=0).epoch(epoch)
    shared = np.concatenate([make(batch_size=12, world_size=2, rank=rank).epoch(epoch) for rank in (0, 1)], axis=1)
    assert alone.shape == shared.shape
    for one, two in zip(alone.tolist(), shared.tolist(), strict=True):
        assert sorted(one) == sorted(two)  # the same images, with the same number of earlier uses


@given(makers())
@settings(max_examples=40)
def test_a_plan_is_a_function_of_seed_and_epoch(maker: tuple[str, Make, np.ndarray]) -> None:
    _, make, _ = maker
    sampler, other = (make(batch_size=12, world_size=1, rank=0) for _ in range(2))
    plans = [sampler.epoch(epoch) for epoch in range(3)]
    np.random.seed(3)  # must not matter
    for epoch in (2, 0, 1, 0):  # nor the order in which epochs are asked for
        assert np.array_equal(other.epoch(epoch), plans[epoch])
    assert not np.array_equal(plans[0], plans[1])


@given(makers(), st.data())
@settings(max_examples=40)
def test_an_epoch_can_start_in_its_middle(maker: tuple[str, Make, np.ndarray], data: st.DataObject) -> None:
    _, make, _ = maker
    plan = make(batch_size=12, world_size=1, rank=0).epoch(1)
    start = data.draw(st.integers(0, len(plan)))
    all_batches, rest = list(EpochBatches(plan, 1)), EpochBatches(plan, 1, start)
    assert len(rest) == len(plan) - start
    assert [*rest] == all_batches[start:]  # draw numbers included: the same augmentations follow


@given(makers())
@settings(max_examples=25)
def test_over_the_epochs_every_image_comes_up(maker: tuple[str, Make, np.ndarray]) -> None:
    _, make, pids = maker
    sampler = make(batch_size=12, world_size=1, rank=0)
    seen: set[int] = set()
    for epoch in range(60):
        seen |= set(sampler.epoch(epoch)[..., 0].reshape(-1).tolist())
    assert seen == set(range(len(pids)))


# ---- the domain-balanced sampler


@given(people(3), st.integers(1, 3), st.integers(1, 2), st.integers(0, 3))
def test_every_rank_gets_an_equal_share_of_each_domain(
    given_people: tuple[np.ndarray, np.ndarray], k: int, world: int, epoch: int
) -> None:
    pids, domains = given_people
    share = 2 * k
    for rank in range(world):
        sampler = DomainSampler(
            pids, domains, batch_size=3 * share, num_instances=k, world_size=world, rank=rank, seed=1
        )
        index = sampler.epoch(epoch)[..., 0]
        assert (domains[index] == np.repeat([3, 13, 23], share)).all()  # domain by domain
        groups = pids[index].reshape(len(index), 3, 2, k)
        assert (groups == groups[..., :1]).all()  # K images of one identity
        assert (groups[:, :, 0, 0] != groups[:, :, 1, 0]).all()  # of two distinct ones in each domain


@given(people(2), st.integers(0, 3))
def test_the_largest_domain_is_used_once_and_the_others_again(
    given_people: tuple[np.ndarray, np.ndarray], epoch: int
) -> None:
    pids, domains = given_people
    sampler = DomainSampler(pids, domains, batch_size=8, num_instances=2, remainder="drop", short_ids="drop")
    index = sampler.epoch(epoch)[..., 0].reshape(-1)
    uses = np.bincount(index, minlength=len(pids))
    once = [uses[domains == domain].max() <= 1 for domain in sampler.domains]
    assert any(once)
    # Each domain goes through all its blocks, but for fewer than P = 2 identities, before it starts again.
    for domain in sampler.domains:
        mine = domains == domain
        blocks = {pid: int((pids[mine] == pid).sum()) // 2 for pid in np.unique(pids[mine])}
        unfinished = [pid for pid, n in blocks.items() if uses[mine & (pids == pid)].sum() < 2 * n]
        assert len(unfinished) < 2


def test_refilled_domains_are_shuffled_anew() -> None:
    pids = np.concatenate([np.arange(4), np.arange(64)])
    domains = np.repeat([0, 1], [4, 64])
    sampler = DomainSampler(pids, domains, batch_size=8, num_instances=1)
    small = sampler.epoch(0)[:, :4]
    assert sampler.steps(0) == 16
    assert all(sorted(step) == [0, 1, 2, 3] for step in small[..., 0].tolist())
    assert len({tuple(step) for step in small[..., 0].tolist()}) > 8
    assert small[..., 1].tolist() == [[turn] * 4 for turn in range(16)]  # how often each came up before


def test_cameras_as_domains_take_an_identity_per_camera() -> None:
    rng = np.random.default_rng(0)
    pids, cameras = np.repeat(np.arange(20), 24), np.tile(np.repeat(np.arange(12), 2), 20)  # 12 cameras: two digits
    order = rng.permutation(len(pids))
    pids, cameras = pids[order], cameras[order]
    index = DomainSampler(pids, cameras, batch_size=48, num_instances=2).epoch(0)[..., 0]
    pairs = index.reshape(-1, 2)
    assert (cameras[pairs[:, 0]] == cameras[pairs[:, 1]]).all()
    assert (pids[pairs[:, 0]] == pids[pairs[:, 1]]).all()
    assert len(index) == 10  # 20 identities with one block in each camera, two per step


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"batch_size": 12},
            "12 cannot be shared by 2 domains with 4 images .*multiple of 8, for example batch",
        ),
        ({"batch_size": 64}, r"Domain 5, with batch_size / 2 domains each: .*needs 8 identities; the data have 3"),
        ({"batch_size": 8, "num_instances": 0}, "cannot be shared"),
        ({"batch_size": 0}, "cannot be shared"),
        ({"batch_size": 8, "rank": 1}, "rank is 1; expected 0 to 0"),
        ({"batch_size": 8, "seed": -1}, "seed is -1"),
    ],
)
def test_domain_settings_that_do_not_fit(options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DomainSampler(np.arange(20), np.repeat([0, 5], [17, 3]), **options)


def test_domains_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match="3 pids and 2 domains"):
        DomainSampler([1, 2, 3], [0, 0], batch_size=4)
    with pytest.raises(DataError, match="1 of 2 pids are negative"):
        DomainSampler([-1, 2, 3], [0, 0, 1], batch_size=2, num_instances=1)

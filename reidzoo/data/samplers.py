"""Which images make up the batches of an epoch: pure functions of (seed, epoch), planned for all ranks at once.

A plan is made for the global batch (batch size times ranks), and every rank takes its contiguous slice of it. So the
images of a step do not depend on how many ranks share them, and ranks need no communication.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reidzoo.errors import ConfigError, DataError

IntArray = NDArray[np.int64]
Remainder = Literal["pad", "reference", "drop"]
ShortIds = Literal["replace", "cycle", "drop"]
Tail = Literal["drop", "wrap"]

CION_INSTANCES = ((0, 2), (40, 4), (60, 6), (80, 8))
"""Images per identity from each epoch on, as in CION (Zuo et al., NeurIPS 2024)."""

STREAM = 0x5A  # keeps the sampler's random numbers apart from those of other uses of the same seed


class EpochSampler(ABC):
    """What plans epochs for all ranks at once: a subclass draws the images of a global epoch, a rank takes its slice.

    Attributes:
        batch_size: images per rank and step.
        world_size: number of ranks.
        rank: whose share `epoch` returns.
        seed: not negative.
    """

    def __init__(self, batch_size: int, world_size: int, rank: int, seed: int) -> None:
        self.batch_size, self.world_size, self.rank, self.seed = batch_size, world_size, rank, seed
        self._last: tuple[int, IntArray] | None = None

    @abstractmethod
    def draw_epoch(self, epoch: int) -> IntArray:
        """Return the (steps, `batch_size` * `world_size`) int64 rows of all ranks; a pure function of (seed, epoch)."""

    def steps(self, epoch: int) -> int:
        """Number of steps in `epoch`, the same on all ranks."""
        return len(self._global_plan(epoch))

    def epoch(self, epoch: int) -> IntArray:
        """Plan of this rank.

        Returns:
            (steps, `batch_size`, 2) int64 of (index, draw): the image's row in `pids`, and how many times it came up
            earlier in this epoch's global plan.
        """
        mine = slice(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
        return self._global_plan(epoch)[:, mine]

    def _check_ranks(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ConfigError(f"rank is {self.rank}; expected 0 to {self.world_size - 1}, for {self.world_size} ranks.")
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}; expected 0 or more.")

    def _global_plan(self, epoch: int) -> IntArray:
        if self._last is None or self._last[0] != epoch:
            images = self.draw_epoch(epoch)
            self._last = epoch, np.stack([images, _count_earlier(images)], axis=-1)
        return self._last[1]


class ShuffleSampler(EpochSampler):
    """All images once, in random order; what does not fill the last batch of an epoch is left out, others each time.

    Args:
        images: how many there are.
        batch_size: images per rank and step.
        world_size: number of ranks.
        rank: whose share `epoch` returns.
        seed: not negative.

    Raises:
        ConfigError: The numbers do not fit together, or there are fewer images than a batch of all ranks needs.
    """

    def __init__(self, images: int, *, batch_size: int, world_size: int = 1, rank: int = 0, seed: int = 0) -> None:
        super().__init__(batch_size, world_size, rank, seed)
        self._check_ranks()
        if images < batch_size * world_size:
            raise ConfigError(
                f"A batch of {batch_size} images on each of {world_size} ranks needs {batch_size * world_size}; the "
                f"data have {images}. Choose batch_size={max(1, images // world_size)} or less."
            )
        self._images = images

    def draw_epoch(self, epoch: int) -> IntArray:
        """Draw a permutation of the images, cut into batches."""
        order = np.random.default_rng((self.seed, epoch, STREAM)).permutation(self._images)
        size = self.batch_size * self.world_size
        return order[: self._images // size * size].reshape(-1, size)


class GradualIdentitySampler(EpochSampler):
    """Batches of identities with K images each, K growing with the epochs (CION; K fixed: PK sampling).

    Every global batch holds P = `batch_size` * `world_size` / K distinct identities; K consecutive rows are of one
    identity. An identity's images are shuffled and cut into blocks of K; as long as P identities have blocks left, P of
    them are drawn uniformly and give one block each. What then remains (fewer than P identities) is the tail.

    Args:
        pids: (N,) identity of every image.
        batch_size: images per rank and step, a multiple of every K.
        num_instances: K, or (first epoch, K) pairs; the last K goes on for ever.
        world_size: number of ranks.
        rank: whose share `epoch` returns.
        seed: not negative.
        remainder: what happens to the n mod K images that fill no block. ``"pad"``: draw the missing K - n mod K again
            from the identity's images, so that each is used at least once. ``"reference"``: draw n mod K again, then
            cut, as CION's release does. ``"drop"``: leave n mod K out, others in every epoch.
        short_ids: identities with n < K images. ``"replace"``: one block of K draws with replacement, as CION's release
            does. ``"cycle"``: one block in which every image comes up K // n times or once more. ``"drop"``: left out.
        tail: what happens to the last, fewer than P identities. ``"drop"``: nothing, as in CION's release; their
            remaining blocks are left out, others in every epoch. ``"wrap"``: one more batch, filled with identities
            that come up again.
        rank_slices: share an epoch as CION's release does: P is drawn per rank, the draws are strung together, and each
            rank takes a consecutive part of them. So the batches depend on the number of ranks, the last rank gets the
            identities with the most images, and a group of K may belong to the same person as another of its batch.

    Raises:
        ConfigError: The numbers do not fit together, or there are fewer identities than a batch needs.
        DataError: There is junk (negative pids) among the images.
    """

    def __init__(
        self,
        pids: ArrayLike,
        *,
        batch_size: int,
        num_instances: int | Sequence[tuple[int, int]] = CION_INSTANCES,
        world_size: int = 1,
        rank: int = 0,
        seed: int = 0,
        remainder: Remainder = "pad",
        short_ids: ShortIds = "replace",
        tail: Tail = "drop",
        rank_slices: bool = False,
    ) -> None:
        labels = np.asarray(pids).reshape(-1)
        if len(labels) and labels.min() < 0:
            raise DataError(
                f"{int((labels < 0).sum())} of {len(labels)} pids are negative (junk). Leave them out first."
            )
        self._schedule = ((0, num_instances),) if isinstance(num_instances, int) else tuple(num_instances)
        super().__init__(batch_size, world_size, rank, seed)
        self._remainder, self._short_ids, self._tail, self._rank_slices = remainder, short_ids, tail, rank_slices

        # Images grouped by identity: those of identity i are _images[_first[i] : _first[i] + _count[i]].
        self._images = np.argsort(labels, kind="stable")
        self._count = np.unique(labels, return_counts=True)[1]
        self._first = np.cumsum(self._count) - self._count
        self._validate()

    def num_instances(self, epoch: int) -> int:
        """K in `epoch`."""
        return [k for first, k in self._schedule if first <= epoch][-1]

    def released_steps(self) -> int:
        """Steps of an epoch as CION's release estimates them before the first: whole groups of the first K."""
        k = self.num_instances(0)
        at_least = np.maximum(self._count, k)
        return int((at_least - at_least % k).sum()) // self.world_size // self.batch_size

    def draw_epoch(self, epoch: int) -> IntArray:
        """Draw one pass with the K of `epoch`."""
        return self.draw_pass(self.num_instances(epoch), np.random.default_rng((self.seed, epoch, STREAM)))

    def draw_pass(self, k: int, rng: np.random.Generator) -> IntArray:
        """One pass through the images, with `k` images per identity: (steps, global batch) int64 rows of `pids`."""
        queue, start, blocks = self._queues(k, rng)
        chunks = _draw_chunks(start, blocks, self._identities(k), k, rng, wrap=self._tail == "wrap")
        images: IntArray = queue[chunks[:, :, None] + np.arange(k)]
        return self._slices(images.reshape(-1), k) if self._rank_slices else images.reshape(len(chunks), -1)

    def _identities(self, k: int) -> int:
        """P, the identities that are drawn together."""
        return self.batch_size * (1 if self._rank_slices else self.world_size) // k

    def _slices(self, images: IntArray, k: int) -> IntArray:
        """Give every rank a consecutive part of whole groups, and cut it into batches."""
        share = len(images) // self.world_size // k * k
        parts = images[: share * self.world_size].reshape(self.world_size, share)
        steps = share // self.batch_size
        batches = parts[:, : steps * self.batch_size].reshape(self.world_size, steps, self.batch_size)
        plan: IntArray = batches.swapaxes(0, 1).reshape(steps, -1)
        return plan

    def _queues(self, k: int, rng: np.random.Generator) -> tuple[IntArray, IntArray, IntArray]:
        """The images in the order in which each identity will give them.

        Returns:
            queue of image rows; start of every identity in it; number of blocks of `k` that it has.
        """
        count, first = self._count, self._first
        shuffled = self._images[_shuffle_groups(count, rng)]
        short, rest = count < k, count % k
        extra = np.where(short, 0, {"pad": (k - rest) % k, "reference": rest, "drop": 0 * rest}[self._remainder])
        # The extras are the first of the shuffled images (a uniform draw without replacement), shuffled in again.
        owner = np.repeat(np.arange(len(count)), extra)
        nth = np.arange(len(owner)) - np.repeat(np.cumsum(extra) - extra, extra)
        if len(owner):
            total = count + extra
            joined = np.empty(total.sum(), dtype=np.int64)
            begin = np.cumsum(total) - total
            joined[_positions(begin, count)] = shuffled
            joined[begin[owner] + count[owner] + nth] = shuffled[first[owner] + nth]
            shuffled, count, first = joined[_shuffle_groups(total, rng)], total, begin

        blocks, start = count // k, first.copy()
        (few,) = np.nonzero(short)
        if self._short_ids != "drop" and len(few):
            n = self._count[few, None]
            pick = rng.integers(0, n, (len(few), k)) if self._short_ids == "replace" else np.arange(k) % n
            start[few] = len(shuffled) + k * np.arange(len(few))
            blocks[few] = 1
            shuffled = np.concatenate([shuffled, shuffled[first[few, None] + pick].reshape(-1)])
        return shuffled, start, blocks

    def _validate(self) -> None:
        epochs, sizes = [first for first, _ in self._schedule], [k for _, k in self._schedule]
        if not epochs or epochs[0] != 0 or epochs != sorted(set(epochs)):
            raise ConfigError(f"num_instances has first epochs {epochs}; expected 0 first, then increasing.")
        if min(sizes) < 1 or self.batch_size < 1:
            raise ConfigError(f"batch_size {self.batch_size}, num_instances {sizes}: expected 1 or more.")
        self._check_ranks()
        unit = math.lcm(*sizes)
        if self.batch_size % unit:
            raise ConfigError(
                f"batch_size {self.batch_size} cannot be divided into groups of num_instances "
                f"{', '.join(map(str, sizes))}. Choose a multiple of {unit}, for example "
                f"batch_size={max(1, round(self.batch_size / unit)) * unit}."
            )
        for k in sizes:
            usable = int((self._count >= k).sum()) if self._short_ids == "drop" else len(self._count)
            needed = self._identities(k)
            if usable < needed:
                fitting = usable * k // self.world_size // unit * unit
                advice = f"Choose batch_size={fitting} or less." if fitting else "Use more data, or fewer ranks."
                if len(self._count) == 1:  # LUPerson, for one, calls everybody 0
                    advice = "For images without identities there is: reidzoo pretrain --method dino"
                raise ConfigError(
                    f"A batch of {self.batch_size} images on each of {self.world_size} ranks, {k} per identity, needs "
                    f"{needed} identities; the data have {usable} that can be used. {advice}"
                )


class PKSampler(GradualIdentitySampler):
    """P identities times K images per batch, for losses that compare images within the batch (Hermans et al., 2017).

    The rule of TransReID (He et al., ICCV 2021): images of an identity that fill no block of K are left out, others in
    every epoch; identities with fewer than K images are drawn with replacement.
    """

    def __init__(
        self,
        pids: ArrayLike,
        *,
        batch_size: int,
        num_instances: int = 4,
        world_size: int = 1,
        rank: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            pids,
            batch_size=batch_size,
            num_instances=num_instances,
            world_size=world_size,
            rank=rank,
            seed=seed,
            remainder="drop",
            short_ids="replace",
        )


def _draw_chunks(
    start: IntArray, blocks: IntArray, size: int, k: int, rng: np.random.Generator, *, wrap: bool
) -> IntArray:
    """Draw `size` distinct identities again and again until fewer have blocks left.

    Args:
        start: (I,) queue position of every identity's first block.
        blocks: (I,) how many blocks it has.
        size: identities per chunk.
        k: images per block.
        rng: source of the draws.
        wrap: join those that have blocks left, and others that start again, to one more chunk.

    Returns:
        (chunks, size) int64 queue positions where the drawn blocks begin.
    """
    pool = np.flatnonzero(blocks)
    at, end = start.copy(), start + k * blocks
    alive = len(pool)
    chunks = []
    while alive >= size:
        drawn = rng.choice(alive, size, replace=False, shuffle=False)
        rng.shuffle(drawn)  # choice without shuffle leaves late positions behind; ranks must get equal shares
        ids = pool[drawn]
        position = at[ids]
        chunks.append(position)
        at[ids] = position + k
        spent = drawn[position + k == end[ids]]
        if len(spent):  # fill the holes from the end of the pool: no search, no shifting
            alive -= len(spent)
            keep = np.ones(len(spent), dtype=bool)
            keep[spent[spent >= alive] - alive] = False
            pool[spent[spent < alive]] = pool[alive : alive + len(spent)][keep]
    if wrap and alive:
        finished = np.flatnonzero((blocks > 0) & (at == end))
        again = rng.choice(finished, size - alive, replace=False)
        chunks.append(rng.permutation(np.concatenate([at[pool[:alive]], start[again]])))
    return np.stack(chunks)


def _shuffle_groups(count: IntArray, rng: np.random.Generator) -> IntArray:
    """Positions 0 .. sum(count) - 1, shuffled within consecutive groups of the given sizes."""
    keys = np.repeat(np.arange(len(count), dtype=np.float64), count)
    keys += rng.random(len(keys))
    return np.argsort(keys, kind="stable")


def _positions(begin: IntArray, count: IntArray) -> IntArray:
    """begin[0], begin[0] + 1, ... (count[0] of them), begin[1], ..."""
    offset: IntArray = np.repeat(begin - (np.cumsum(count) - count), count)
    return offset + np.arange(len(offset))


def _count_earlier(images: IntArray) -> IntArray:
    """For every entry, how many entries before it (row by row) are equal."""
    flat = images.reshape(-1)
    earlier = np.zeros(len(flat), dtype=np.int64)
    (again,) = np.nonzero(np.bincount(flat)[flat] > 1)
    order = again[np.argsort(flat[again], kind="stable")]
    new = np.flatnonzero(np.diff(flat[order], prepend=-1))
    earlier[order] = np.arange(len(order)) - np.repeat(new, np.diff(new, append=len(order)))
    return earlier.reshape(images.shape)

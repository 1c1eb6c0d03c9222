"""Ranks that share the images of an evaluation. One rank is the same code path."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from reidzoo.errors import ReidzooError

T = TypeVar("T")

# A launcher's store outlives a group, and what the last group left in it would mislead the next: each has its own part.
_groups = itertools.count()
# The group that ended last stays for a while. Its threads may still be putting away what they sent, for which they need
# the interpreter, and older torch (2.6) waits for them with the interpreter held when the last reference goes.
_ended: list[Any] = []


@dataclass(frozen=True)
class Workers:
    """This process's place among those that share the work; all of them make the same calls in the same order.

    Attributes:
        rank: 0 .. size - 1.
        size: How many there are.
        group: Their gloo group: what is exchanged lies in ordinary memory.
    """

    rank: int = 0
    size: int = 1
    group: Any = None

    def part(self, items: Sequence[T]) -> Sequence[T]:
        """Return this rank's share: consecutive items, about as many on each rank."""
        n = len(items)
        return items[n * self.rank // self.size : n * (self.rank + 1) // self.size]

    def each(self, compute: Callable[[], T]) -> list[T]:
        """Call `compute` on every rank and return what came out, rank by rank; an error anywhere is raised on all."""
        if self.size == 1:
            return [compute()]
        value: T | None = None
        error: Exception | None = None
        try:
            value = compute()
        except Exception as e:  # noqa: BLE001 - the others would wait for this rank: they are told, then it is raised
            error = e
        outcomes: list[Any] = [None] * self.size
        dist.all_gather_object(outcomes, (value, _portable(error)), group=self.group)
        failed = error or next((e for _, e in outcomes if e is not None), None)
        if failed is not None:
            raise failed
        return [value for value, _ in outcomes]

    def first(self, compute: Callable[[], T]) -> T:
        """Call `compute` on rank 0 alone and return its result on every rank."""
        result: T = self.each(lambda: compute() if self.rank == 0 else None)[0]  # type: ignore[assignment]
        return result

    def concatenate(self, compute: Callable[[], NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return the rows (n, D) that `compute` gives on each rank, one rank's below the other's, on every rank."""
        if self.size == 1:
            return compute()
        mine: list[NDArray[np.float32]] = []

        def shape() -> tuple[int, ...]:
            mine.append(compute())
            return mine[0].shape

        shapes = self.each(shape)
        most, dim = max(n for n, *_ in shapes), max(d for _, d in shapes)  # a rank without images knows no D
        everything = torch.empty(self.size, most, dim)
        padded = torch.zeros(most, dim)
        padded[: len(mine[0])] = torch.from_numpy(mine[0]) if mine[0].size else torch.empty(0, dim)
        dist.all_gather(list(everything), padded, group=self.group)
        rows: NDArray[np.float32] = everything.numpy()
        return np.concatenate([rows[rank, :n] for rank, (n, *_) in enumerate(shapes)])


@contextmanager
def share_work(distributed: bool | None = None) -> Iterator[Workers]:
    """Join the ranks that share the work of the block.

    Args:
        distributed: True: with all ranks of this job. False: alone. None: with all ranks that torchrun started, unless
            a process group exists already: inside somebody's training, one rank may be evaluating alone.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
    initialised = dist.is_available() and dist.is_initialized()
    if distributed is None:
        distributed = launched and not initialised
    if not distributed or not (launched or initialised):
        yield Workers()
        return
    if not initialised:
        store, rank, size = next(rendezvous("env://"))
        own = PrefixStore(f"reidzoo/{next(_groups)}", store)
        dist.init_process_group("gloo", store=own, rank=rank, world_size=size, timeout=timedelta(hours=6))
    try:
        group = dist.new_group(backend="gloo", timeout=timedelta(hours=6)) if initialised else dist.group.WORLD
        yield Workers(dist.get_rank(), dist.get_world_size(), group)
    finally:
        dist.destroy_process_group(group if initialised else None)
        _ended[:] = [group]


def _portable(error: Exception | None) -> Exception | None:
    """The error as it can travel: others than ours may hold what cannot be pickled."""
    if error is None or isinstance(error, ReidzooError):
        return error
    return RuntimeError(f"{type(error).__name__} on another rank: {error}")

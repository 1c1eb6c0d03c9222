"""Ranks: start them, join them, and the collectives that methods need. One rank is the same code path."""

from __future__ import annotations

import logging
import os
import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from reidzoo.errors import ConfigError, TrainingError


@dataclass(frozen=True)
class World:
    """This process's place among the ranks."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """True on the rank that writes files and draws progress."""
        return self.rank == 0


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """Turn ``auto | cpu | cuda`` into the device of a rank.

    Raises:
        ConfigError: CUDA is asked for and not there, or there are fewer GPUs than ranks.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError("device is 'cuda', but this torch sees no GPU. Type: reidzoo doctor, or use device='cpu'")
    if local_rank >= torch.cuda.device_count():
        raise ConfigError(f"rank {local_rank} has no GPU: this machine has {torch.cuda.device_count()}")
    return torch.device("cuda", local_rank)


@contextmanager
def join(device: str) -> Iterator[World]:
    """Be one rank of the job that the launcher announced in the environment, or the only one."""
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    place = pick_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if place.type == "cuda":
        torch.cuda.set_device(place)
    ours = size > 1 and not dist.is_initialized()
    if ours:
        # Rank 0 evaluates alone between epochs; the others wait for it.
        backend = "nccl" if place.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(hours=6))
    try:
        yield World(rank, size, place)
    finally:
        if ours:
            dist.destroy_process_group()


def under_launcher() -> bool:
    """True in a process that torchrun (or `launch`) started."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def launch(run: Callable[..., object], ranks: int, *args: Any) -> None:
    """Call ``run(*args)`` on `ranks` new processes of this machine and wait for them.

    Raises:
        TrainingError: a rank failed; the message is that rank's own.
        KeyboardInterrupt: Ctrl-C, after the ranks were stopped.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        start_method="spawn",
    )
    threads = max(1, torch.get_num_threads() // ranks)
    # torch logs a failed rank's traceback at length; the error below carries it.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        elastic_launch(config, _rank_main)(run, threads, *args)
    except ChildFailedError as e:
        rank, failure = e.get_first_failure()
        message: Any = failure.message  # of an error, or of a signal
        if isinstance(message, dict):
            message = message["message"]
        elif failure.exitcode > 0:
            message = (
                "it ended before the training began, and what it printed says why. A script that starts ranks does so "
                'under `if __name__ == "__main__":`, because each of them reads it from the top'
            )
        raise TrainingError(f"rank {rank} of {ranks} stopped: {message}") from e
    except SignalException as e:
        if e.sigval == signal.SIGINT:
            raise KeyboardInterrupt from e
        raise


def _rank_main(run: Callable[..., object], threads: int, *args: Any) -> None:
    torch.set_num_threads(threads)
    run(*args)


def all_reduce_sum(x: Tensor) -> tuple[Tensor, int]:
    """Return the sum of `x` over the ranks (in place where there are several) and the number of ranks."""
    if not (dist.is_available() and dist.is_initialized()):
        return x, 1
    dist.all_reduce(x)
    return x, dist.get_world_size()


def gather_with_grad(x: Tensor) -> Tensor:
    """Concatenate `x` (B, ...) of all ranks to (W * B, ...); gradients flow back to the rank each row came from."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return x
    return cast(Tensor, _Gather.apply(x))


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = len(x)
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        # Every rank's loss may depend on this rank's rows: their gradients add up.
        total, _ = all_reduce_sum(grads[0].contiguous())
        start = dist.get_rank() * ctx.rows
        return total[start : start + ctx.rows]


def share_buffers(module: nn.Module) -> None:
    """Give every rank the buffers that rank 0 has, the statistics of BatchNorm among them."""
    if dist.is_available() and dist.is_initialized():
        for buffer in module.buffers():
            dist.broadcast(buffer, 0)


def barrier() -> None:
    """Wait until all ranks are here."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()

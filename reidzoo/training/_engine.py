"""The training loop. What a batch is and what its loss is, a `Method` says; the rest is here, once for all methods."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from reidzoo._logging import get_logger
from reidzoo.data.loaders import EpochBatches, ImageDataset, build_loader
from reidzoo.errors import TrainingError
from reidzoo.training import _checkpoint
from reidzoo.training._checkpoint import RunFolder
from reidzoo.training._distributed import World, barrier
from reidzoo.training._tracking import Tracker, draw_curves, read_history
from reidzoo.training.configs import TrainConfig

logger = get_logger(__name__)


@dataclass(frozen=True)
class Progress:
    """Where a run is. `step` counts optimiser steps of the whole run, `iteration` those of the current epoch."""

    epoch: int
    iteration: int
    iterations: int
    step: int

    @property
    def t(self) -> float:
        """Progress in epochs."""
        return self.epoch + self.iteration / self.iterations


class Method(ABC):
    """A way to train: its batches, its loss, its optimiser, and what it leaves behind.

    Attributes:
        network: what gradients flow into; the engine wraps it for several ranks and passes it to `loss`.
        dataset: images and their augmentation.
    """

    name: ClassVar[str]
    network: nn.Module
    dataset: ImageDataset
    optimizer: torch.optim.Optimizer

    @abstractmethod
    def plan(self, epoch: int) -> np.ndarray:
        """Return (steps, batch_size, 2) int64: (image index, how often it came before) for this rank's batches."""

    @abstractmethod
    def set_rates(self, progress: Progress) -> None:
        """Write the learning rates (and weight decays) of the coming step into the optimiser's groups."""

    @abstractmethod
    def loss(self, network: nn.Module, views: list[Tensor], pids: Tensor, progress: Progress) -> dict[str, Tensor]:
        """Return scalars of a (micro-)batch: ``loss``, which is differentiated, and others to be logged."""

    def before_step(self, progress: Progress) -> None:
        """Change the gradients, which are unscaled and averaged over ranks, before the optimiser uses them."""

    def after_step(self, progress: Progress) -> None:
        """Follow the optimiser's step (moving averages)."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return all that changes during a run, apart from the optimiser: tensors and plain values."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""

    @abstractmethod
    def trained(self) -> nn.Module:
        """Return the network that the run is for."""

    def evaluate(self) -> dict[str, float]:
        """Return metrics of `trained()` on held-out images, {} where there are none. Called on rank 0."""
        return {}


def fit(method: Method, config: TrainConfig, folder: RunFolder, world: World, *, resume: bool) -> None:
    """Train until the last epoch is done; all randomness of a step comes from (seed, rank, step).

    Hence a run that was stopped anywhere and goes on from its checkpoint computes what it would have computed.

    Raises:
        TrainingError: an epoch without a batch, or a loss that is not finite.
    """
    scaler = torch.amp.GradScaler(world.device.type, enabled=_amp_dtype(config, world) == torch.float16)
    first_epoch, first, step = _restore(method, scaler, folder) if resume else (0, 0, 0)
    tracker = Tracker(folder, world, desc=method.name, first_step=step)
    devices = [world.device.index] if world.device.type == "cuda" else []
    with tracker, torch.random.fork_rng(devices=devices):
        network = _distribute(method.network, world)
        for epoch in range(first_epoch, config.epochs):
            started, plan = time.perf_counter(), method.plan(epoch)
            if len(plan) == 0:
                raise TrainingError(
                    f"epoch {epoch + 1} has no batch: too few images for batch_size {config.batch_size}"
                )
            tracker.expect(step - first + len(plan) * (config.epochs - epoch))
            batches = EpochBatches(plan, epoch, start=first)
            loader = build_loader(method.dataset, batches, num_workers=min(config.num_workers, os.cpu_count() or 1))
            for i, batch in enumerate(loader, start=first):
                progress = Progress(epoch, i, len(plan), step)
                torch.manual_seed(_step_seed(config.seed, world.rank, step))
                logged = _step(method, network, batch, progress, config, world, scaler)
                step += 1
                tracker.step(step, logged, {"lr": method.optimizer.param_groups[0]["lr"], "t": progress.t})
                if config.checkpoint_every_steps and step % config.checkpoint_every_steps == 0 and i + 1 < len(plan):
                    tracker.flush()
                    _save(method, scaler, folder, world, (epoch, i + 1, step))
            first = 0
            _end_epoch(method, config, folder, world, tracker, epoch, step, time.perf_counter() - started)
            _save(method, scaler, folder, world, (epoch + 1, 0, step))
    barrier()


def _step(
    method: Method,
    network: nn.Module,
    batch: tuple[Tensor | list[Tensor], Tensor],
    progress: Progress,
    config: TrainConfig,
    world: World,
    scaler: torch.amp.GradScaler,
) -> dict[str, Tensor]:
    """Forward and backward over the micro-batches, then one step of the optimiser."""
    method.set_rates(progress)
    method.optimizer.zero_grad(set_to_none=True)
    dtype = _amp_dtype(config, world)
    logged: dict[str, Tensor] = {}
    parts = list(_micro_batches(batch, config.micro_batch or config.batch_size, world.device))
    for i, (views, pids) in enumerate(parts):
        last = i == len(parts) - 1
        with nullcontext() if last or world.size == 1 else network.no_sync():  # type: ignore[operator]
            with torch.autocast(world.device.type, dtype) if dtype != torch.float32 else nullcontext():
                values = method.loss(network, views, pids, progress)
            scaler.scale(values["loss"] / len(parts)).backward()  # type: ignore[no-untyped-call]
        for name, value in values.items():
            logged[name] = logged.get(name, 0) + value.detach() / len(parts)
    scaler.unscale_(method.optimizer)
    method.before_step(progress)
    scaler.step(method.optimizer)
    scaler.update()
    method.after_step(progress)
    return logged


def _micro_batches(
    batch: tuple[Tensor | list[Tensor], Tensor], size: int, device: torch.device
) -> Iterator[tuple[list[Tensor], Tensor]]:
    views, pids = batch
    if isinstance(views, Tensor):
        views = [views]
    for i in range(0, len(pids), size):
        yield [v[i : i + size].to(device, non_blocking=True) for v in views], pids[i : i + size].to(device)


def _step_seed(seed: int, rank: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, rank, step]).generate_state(1, np.uint64)[0] >> 1)


def _amp_dtype(config: TrainConfig, world: World) -> torch.dtype:
    precision = config.precision
    if precision == "auto":
        precision = "bf16" if world.device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def _distribute(network: nn.Module, world: World) -> nn.Module:
    network.train()
    if world.size == 1:
        return network
    return DistributedDataParallel(network, device_ids=[world.device] if world.device.type == "cuda" else None)


def _end_epoch(
    method: Method,
    config: TrainConfig,
    folder: RunFolder,
    world: World,
    tracker: Tracker,
    epoch: int,
    step: int,
    seconds: float,
) -> None:
    tracker.flush()
    row: dict[str, Any] = {"epoch": epoch + 1, "step": step, "seconds": round(seconds, 2)}
    if world.is_main:
        steps = read_history(folder.metrics, "step")
        losses = [r["loss"] for r in steps if epoch <= r["t"] < epoch + 1]
        row["loss"] = sum(losses) / len(losses)
        if epoch + 1 == config.epochs or (config.eval_every > 0 and (epoch + 1) % config.eval_every == 0):
            row.update(method.evaluate())
            method.network.train()
        tracker.write(row)
        draw_curves(
            steps, read_history(folder.metrics), folder.curves, f"{method.name}, epoch {epoch + 1} of {config.epochs}"
        )
    barrier()


def _save(
    method: Method, scaler: torch.amp.GradScaler, folder: RunFolder, world: World, position: tuple[int, int, int]
) -> None:
    if world.is_main:
        state = {"position": position, "optimizer": method.optimizer.state_dict(), "scaler": scaler.state_dict()}
        _checkpoint.save(folder.last, {**state, "method": method.state_dict()})


def _restore(method: Method, scaler: torch.amp.GradScaler, folder: RunFolder) -> tuple[int, int, int]:
    """Load the last checkpoint; return the epoch, the iteration and the step that come next."""
    state = _checkpoint.load(folder.last)
    method.load_state_dict(state["method"])
    method.optimizer.load_state_dict(state["optimizer"])
    scaler.load_state_dict(state["scaler"])
    epoch, iteration, step = state["position"]
    logger.info("going on from step %d of %s", step, folder.last)
    return epoch, iteration, step

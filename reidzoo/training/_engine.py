"""The training loop. What a batch is and what its loss is, a `Method` says; the rest is here, once for all methods."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from reidzoo._logging import get_logger
from reidzoo.data.loaders import EpochBatches, ImageDataset, build_loader
from reidzoo.errors import CheckpointError, DivergedError, TrainingError
from reidzoo.training import _checkpoint
from reidzoo.training._alarm import CollapseAlarm
from reidzoo.training._checkpoint import RunFolder
from reidzoo.training._curves import draw_curves
from reidzoo.training._distributed import World, barrier
from reidzoo.training._scaling import (
    compiled,
    distribute,
    learning_afterwards,
    load_state,
    recomputed,
    shard,
    statistics_at_rest,
    whole_state,
)
from reidzoo.training._tracking import Tracker, read_history
from reidzoo.training.configs import TrainConfig
from reidzoo.weights._saved import read_metadata, write_safetensors

logger = get_logger(__name__)

_DRAW_SECONDS = 30  # drawing takes a second: too long for after each of many short epochs


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
        unscale_first: False leaves fp16's loss scale on the gradients that `before_step` sees.
    """

    name: ClassVar[str]
    unscale_first: bool = True
    network: nn.Module
    dataset: ImageDataset
    optimizer: torch.optim.Optimizer

    @abstractmethod
    def plan(self, epoch: int) -> np.ndarray:
        """Return (steps, batch_size, 2) int64: (image index, how often it came before) for this rank's batches."""

    @abstractmethod
    def set_rates(self, progress: Progress) -> None:
        """Write the learning rates (and weight decays) of the coming step into the optimiser's groups."""

    def rates(self) -> dict[str, float]:
        """Return what `set_rates` chose beside the learning rate, for the log."""
        return {}

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

    def networks(self) -> list[nn.Module]:
        """Return what a step calls, for torch.compile."""
        return [self.network]

    @abstractmethod
    def trained(self) -> nn.Module:
        """Return the network that the run is for."""

    def alarm(self) -> CollapseAlarm | None:
        """Return what looks at the log for a collapse, None where there is nothing to see."""
        return None

    def evaluate(self) -> dict[str, float]:
        """Return metrics of `trained()` on held-out images, {} where there are none. Called on rank 0."""
        return {}


def fit(
    method: Method, config: TrainConfig, folder: RunFolder, world: World, *, resume: bool, first_epoch: int = 0
) -> None:
    """Train until the last epoch is done; all randomness of a step comes from (seed, rank, step).

    Hence a run that was stopped anywhere and goes on from its checkpoint computes what it would have computed.

    Raises:
        TrainingError: an epoch without a batch, or the images do not fit into the GPU's memory.
        DivergedError: a loss or weight that is not finite, collapsed features; the state is in ``folder.failed``.
        CheckpointError: the checkpoint is damaged, or of another network.
    """
    devices = [world.device.index] if world.device.type == "cuda" else []
    with ExitStack() as stack:
        loop = _Loop(method, config, folder, world, resume=resume, first_epoch=first_epoch)
        stack.enter_context(loop.tracker)
        stack.enter_context(torch.random.fork_rng(devices=devices))
        stack.enter_context(learning_afterwards(method.network))
        if config.grad_checkpointing:
            stack.enter_context(recomputed(method.network))
        if config.compile:
            stack.enter_context(compiled(method.networks()))
        loop.run()
    barrier()


class _Loop:
    """A run in this process: where it is, and how it makes a step, a checkpoint and the end of an epoch.

    Attributes:
        epoch: of the coming step, from 0.
        first: iteration of the coming step within the epoch.
        step: optimiser steps so far.
    """

    def __init__(
        self,
        method: Method,
        config: TrainConfig,
        folder: RunFolder,
        world: World,
        *,
        resume: bool,
        first_epoch: int = 0,
    ) -> None:
        self.method, self.config, self.folder, self.world = method, config, folder, world
        self.dtype = _amp_dtype(config, world)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=self.dtype == torch.float16)
        if config.shard_optimizer:
            method.optimizer = shard(method.optimizer, world)
        self.epoch, self.first, self.step = self._restore() if resume else (first_epoch, 0, 0)
        done = (self.epoch, self.step)
        self.tracker = Tracker(
            folder, world, desc=method.name, done=done, images=config.batch_size, alarm=method.alarm()
        )
        self.network: nn.Module | None = None
        self.learning: list[bool] = []
        self._drawn = time.perf_counter()

    def run(self) -> None:
        """Train from here to the end."""
        self.method.network.train()
        try:
            while self.epoch < self.config.epochs:
                self._train_epoch()
        except DivergedError as e:
            self._save(self.folder.failed)
            self._save_batch(e.step)
            barrier()  # the launcher ends all ranks when the first one ends
            raise
        except torch.OutOfMemoryError as e:
            images = self.config.micro_batch or self.config.batch_size
            raise TrainingError(
                f"{images} images at a time do not fit into the memory of {self.world.device} ({shorten(str(e), 99)}). "
                "Set a smaller micro_batch (command line: --micro-batch), of which several make a step of batch_size "
                "images; grad_checkpointing=True (--grad-checkpointing) saves memory too."
            ) from e

    def _train_epoch(self) -> None:
        config, started, plan = self.config, time.perf_counter(), self.method.plan(self.epoch)
        self.plan = plan
        if len(plan) == 0:
            raise TrainingError(
                f"epoch {self.epoch + 1} has no batch: too few images for batch_size {config.batch_size}"
            )
        self.tracker.expect(self.step - self.first + len(plan) * (config.epochs - self.epoch))
        batches = EpochBatches(plan, self.epoch, start=self.first)
        loader = build_loader(self.method.dataset, batches, num_workers=min(config.num_workers, os.cpu_count() or 1))
        for batch in loader:
            progress = Progress(self.epoch, self.first, len(plan), self.step)
            torch.manual_seed(_step_seed(config.seed, self.world.rank, self.step))
            logged = self._train_step(batch, progress)
            self.first, self.step = self.first + 1, self.step + 1
            rates = {"lr": self.method.optimizer.param_groups[0]["lr"], **self.method.rates(), "t": progress.t}
            self.tracker.step(self.step, logged, rates)
            every = config.checkpoint_every_steps
            if every and self.step % every == 0 and self.first < len(plan):
                self._check()
                self._save(self.folder.last)
        self._check()
        if self._is_evaluated():  # which takes long, and reads images that may be damaged: no step is lost by that
            self._save(self.folder.last)
        self._end_epoch(time.perf_counter() - started)
        self.epoch, self.first = self.epoch + 1, 0
        if config.keep_every and self.epoch % config.keep_every == 0:
            self._save(self.folder.kept(self.epoch))  # before `last`: a kill in between repeats the epoch
        self._save(self.folder.last)

    def _train_step(self, batch: tuple[Tensor | list[Tensor], Tensor], progress: Progress) -> dict[str, Tensor]:
        """Forward and backward over the micro-batches, then one step of the optimiser."""
        method, config = self.method, self.config
        method.set_rates(progress)
        network = self._wrapped()
        method.optimizer.zero_grad(set_to_none=True)
        logged: dict[str, Tensor] = {}
        parts = list(_micro_batches(batch, config.micro_batch or len(batch[1]), self.world.device))
        for i, (views, pids) in enumerate(parts):
            last = i == len(parts) - 1
            with nullcontext() if last or self.world.size == 1 else network.no_sync():  # type: ignore[operator]
                with torch.autocast(self.world.device.type, self.dtype, enabled=self.dtype != torch.float32):
                    values = method.loss(network, views, pids, progress)
                with statistics_at_rest(network) if config.grad_checkpointing else nullcontext():
                    self.scaler.scale(values["loss"] / len(parts)).backward()  # type: ignore[no-untyped-call]
            for name, value in values.items():
                logged[name] = logged.get(name, 0) + value.detach() / len(parts)
        if method.unscale_first:
            self.scaler.unscale_(method.optimizer)  # or else scaler.step does, after before_step
        method.before_step(progress)
        self.scaler.step(method.optimizer)
        self.scaler.update()
        method.after_step(progress)
        return logged

    def _wrapped(self) -> nn.Module:
        """Return the network, for several ranks in DDP, which wants to know in advance which gradients will come."""
        learning = [p.requires_grad for p in self.method.network.parameters()]
        if learning != self.learning:
            self.network = None  # its hooks go first
            self.learning, self.network = learning, distribute(self.method.network, self.world)
        return cast(nn.Module, self.network)

    def _is_evaluated(self) -> bool:
        """Whether the network is evaluated after this epoch."""
        done, every = self.epoch + 1, self.config.eval_every
        return done == self.config.epochs or (every > 0 and done % every == 0)

    def _end_epoch(self, seconds: float) -> None:
        epoch, config, method = self.epoch + 1, self.config, self.method
        row: dict[str, Any] = {"epoch": epoch, "step": self.step, "seconds": round(seconds, 2)}
        if self.world.is_main:
            steps = read_history(self.folder.metrics, "step")
            losses = [r["loss"] for r in steps if self.epoch <= r["t"] < epoch]
            row["loss"] = sum(losses) / len(losses)
            if self._is_evaluated():
                # Not compiled: each shape of an evaluation would cost a graph of its own.
                with torch.compiler.set_stance("force_eager") if config.compile else nullcontext():
                    row.update(method.evaluate())
                method.network.train()
                self._keep_best(row)
            self.tracker.end_epoch(row, config.epochs)
            if epoch == config.epochs or time.perf_counter() - self._drawn > _DRAW_SECONDS:
                title = f"{method.name}, epoch {epoch} of {config.epochs}"
                draw_curves(steps, read_history(self.folder.metrics), self.folder.curves, title)
                self._drawn = time.perf_counter()
        barrier()

    def _keep_best(self, row: dict[str, Any]) -> None:
        """Save the network of an evaluation, if its mAP is the best so far; which that was, its file says."""
        best = self.folder.best
        before = float(read_metadata(best)["mAP"]) if best.exists() else -1.0
        if self.config.eval_every and row.get("mAP", -1.0) > before:
            header = {**self.folder.header, "epoch": str(row["epoch"]), "mAP": str(row["mAP"])}
            tensors = {name: t.detach().cpu() for name, t in self.method.trained().state_dict().items()}
            write_safetensors(tensors, best, header)

    def _check(self) -> None:
        """See that everything so far is in the log and sound, before it is saved or evaluated.

        Raises:
            DivergedError: a loss or a weight is not finite.
        """
        self.tracker.flush()
        parameters = dict(self.method.network.named_parameters())
        norms = torch.stack([norm.float() for norm in torch._foreach_norm([p.detach() for p in parameters.values()])])
        finite = norms.isfinite().tolist()
        if not all(finite):
            bad = [name for name, ok in zip(parameters, finite, strict=True) if not ok]
            raise DivergedError(
                f"{len(bad)} of {len(parameters)} weights are not finite after step {self.step}, though the loss was: "
                f"{', '.join(bad[:3])}. The run stops; its last checkpoint, if any, is {self.folder.last}, its state "
                f"is in {self.folder.failed}, the batch of that step in {self.folder.failed_batch.name} beside it. "
                "Start anew with a lower lr, a longer warm-up or precision='fp32'.",
                self.step,
            )

    def _save(self, path: Path) -> None:
        optimizer = whole_state(self.method.optimizer, self.world)
        if self.world.is_main:
            position, header = (self.epoch, self.first, self.step), self.folder.header
            state = {"position": position, "reidzoo": header, "optimizer": optimizer}
            _checkpoint.save(path, {**state, "scaler": self.scaler.state_dict(), "method": self.method.state_dict()})

    def _save_batch(self, step: int) -> None:
        """Make rank 0's batch of a step of this epoch again, to be looked at: views, labels and files."""
        iteration = step - 1 - (self.step - self.first)
        if self.world.is_main and 0 <= iteration < len(self.plan):
            keys, dataset = EpochBatches(self.plan, self.epoch)[iteration], self.method.dataset
            views, labels = default_collate([dataset[key] for key in keys])
            paths = [dataset.records.path[key.index] for key in keys]
            _checkpoint.save(self.folder.failed_batch, {"step": step, "views": views, "labels": labels, "paths": paths})

    def _restore(self) -> tuple[int, int, int]:
        """Load the last checkpoint; return the epoch, the iteration and the step that come next."""
        state = _checkpoint.load(self.folder.last)
        try:
            self.method.load_state_dict(state["method"])
            load_state(self.method.optimizer, state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
        except (RuntimeError, ValueError, KeyError) as e:
            raise CheckpointError(
                f"{self.folder.last} does not fit this run: {shorten(str(e), 800)} Go on with the model and method of "
                "the run, or start anew with overwrite=True (command line: --overwrite)."
            ) from e
        epoch, iteration, step = state["position"]
        logger.info("going on from step %d of %s", step, self.folder.last)
        return epoch, iteration, step


def _micro_batches(
    batch: tuple[Tensor | list[Tensor], Tensor], size: int, device: torch.device
) -> Iterator[tuple[list[Tensor], Tensor]]:
    views, pids = batch
    if isinstance(views, Tensor):
        views = [views]
    for i in range(0, len(pids), size):
        part = [tensor[i : i + size].to(device, non_blocking=True) for tensor in (*views, pids)]
        yield part[:-1], part[-1]


def _step_seed(seed: int, rank: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, rank, step]).generate_state(1, np.uint64)[0]) >> 1


def _amp_dtype(config: TrainConfig, world: World) -> torch.dtype:
    precision = config.precision
    if precision == "auto":
        precision = "bf16" if world.device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]

"""From the arguments of `pretrain` and `finetune` to a trained network: everything around the loop."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from reidzoo._files import atomic
from reidzoo.data import Records, ReIDDataset, load_dataset
from reidzoo.data.loaders import check_images
from reidzoo.errors import ConfigError, CorruptImageError, DataError
from reidzoo.models import ReIDModel, create_model
from reidzoo.training import _distributed
from reidzoo.training._checkpoint import RunFolder
from reidzoo.training._distributed import World
from reidzoo.training._engine import Method, fit, logger
from reidzoo.training._tracking import read_history
from reidzoo.training.configs import TrainConfig
from reidzoo.training.methods import MethodInfo
from reidzoo.weights import save_model


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves behind.

    Attributes:
        model: the trained network, on the CPU, in eval mode: a backbone after `pretrain`, a `ReIDModel` after
            `finetune`.
        checkpoint: its weights as safetensors, for ``create_model("local-dir:<this>")``.
        history: one row per epoch: epoch, step, loss, seconds and, where the run was evaluated, its metrics.
        metrics: the last evaluation (fractions in [0, 1]), {} if there was none.
    """

    model: nn.Module
    checkpoint: Path
    history: list[dict[str, Any]]
    metrics: dict[str, float]


@dataclass(frozen=True)
class Job:
    """The arguments of a run, as they go to its ranks."""

    name: str
    method: MethodInfo
    model: str | nn.Module
    data: str | ReIDDataset
    output_dir: Path
    config: TrainConfig


def run(job: Job) -> TrainResult:
    """Do the job on the ranks that its config asks for, or join the ranks of a running torchrun."""
    if job.config.devices > 1 and not _distributed.under_launcher():
        if not isinstance(job.model, str) and not hasattr(job.model, "reidzoo_name"):
            raise ConfigError(
                f"devices={job.config.devices} needs a model of reidzoo.create_model, to be built again from the "
                f"ranks' file; this is a {type(job.model).__name__}. Start your script with torchrun instead."
            )
        _distributed.launch(_train, job.config.devices, job)
        trained = _rebuild(job)
    else:
        trained = _train(job)
    folder = RunFolder(job.output_dir)
    history = read_history(folder.metrics)
    evaluated = [row for row in history if "mAP" in row]
    keys = {"epoch", "step", "seconds", "loss"}
    metrics = {k: v for k, v in evaluated[-1].items() if k not in keys} if evaluated else {}
    return TrainResult(trained.cpu().eval(), folder.model, history, metrics)


def _train(job: Job) -> nn.Module:
    """One rank's part."""
    config, folder = job.config, RunFolder(job.output_dir)
    with _distributed.join(config.device) as world, torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)  # initial weights: of a new backbone, and of the method's heads
        data = load_dataset(job.data)
        if len(data.train) == 0:
            raise DataError(f"{data.name} at {data.root} has no training images")
        backbone = _backbone(job, world)
        resume = _on_main(world, lambda: _open(job, folder, data, world))
        corrupt = _on_main(world, lambda: _find_corrupt(folder, data.train, config.skip_corrupt))
        if corrupt:
            keep = np.setdiff1d(np.arange(len(data.train)), corrupt)
            data = ReIDDataset(data.name, data.root, data.train.select(keep), data.query, data.gallery)
        module, _, cls = job.method.cls.partition(":")
        method: Method = getattr(import_module(module), cls)(backbone, data, config, world)
        fit(method, config, folder, world, resume=resume)
        trained = method.trained().eval()
        if world.is_main:
            save_model(trained, folder.model, method=job.name)
        _distributed.barrier()
    return trained


def _backbone(job: Job, world: World) -> nn.Module:
    """The network to start from: a new one by name, or a copy of the caller's (a `ReIDModel` lends its backbone)."""
    model = job.model
    model = create_model(model, img_size=job.config.img_size) if isinstance(model, str) else copy.deepcopy(model)
    if isinstance(model, ReIDModel):
        model = model.backbone
    for attribute in ("embed_dim", "pretrained_cfg"):
        if not hasattr(model, attribute):
            raise ConfigError(
                f"the model has no attribute {attribute!r}. Build it with reidzoo.create_model, or set embed_dim (the "
                "width of its output) and pretrained_cfg (a dict with 'mean', 'std' and 'input_size') on it."
            )
    return model.to(world.device)


def _open(job: Job, folder: RunFolder, data: ReIDDataset, world: World) -> bool:
    name = job.model if isinstance(job.model, str) else getattr(job.model, "reidzoo_name", type(job.model).__name__)
    run = {
        "method": job.name,
        "model": name,
        "data": job.data if isinstance(job.data, str) else data.name,
        "images": len(data.train),
        "images_per_step": job.config.batch_size * world.size,
        "config": asdict(job.config),
    }
    return folder.open(run, resume=job.config.resume, overwrite=job.config.overwrite)


def _find_corrupt(folder: RunFolder, train: Records, skip: bool) -> list[int]:
    """Decode all training images once per run folder; return the rows that cannot be."""
    report = folder.path / "images.json"
    known = json.loads(report.read_text()) if report.exists() else {}
    if known.get("checked") != len(train):
        known = {"checked": len(train), "corrupt": [[i, reason] for i, reason in check_images(train)]}
    corrupt = [i for i, _ in known["corrupt"]]
    if corrupt and not skip:
        first = "; ".join(f"{train.path[i]} ({reason})" for i, reason in known["corrupt"][:3])
        raise CorruptImageError(
            f"{len(corrupt)} of {len(train)} training images cannot be read: {first}. Replace them, or leave them out "
            "with skip_corrupt=True (command line: --skip-corrupt)."
        )
    with atomic(report) as temporary:
        temporary.write_text(json.dumps(known))
    if corrupt:
        logger.warning("left out %d of %d unreadable training images: see %s", len(corrupt), len(train), report)
    return corrupt


def _on_main(world: World, make: Any) -> Any:
    """Compute something on rank 0 and give it, or its error, to every rank."""
    if world.size == 1:
        return make()
    box: list[Any] = [None, None]
    if world.is_main:
        try:
            box[0] = make()
        except Exception as e:  # noqa: BLE001 - handed to every rank, so that none waits for ever
            box[1] = e
    dist.broadcast_object_list(box, device=world.device)
    if box[1] is not None:
        raise box[1]
    return box[0]


def _rebuild(job: Job) -> nn.Module:
    """Read back what the ranks wrote."""
    return create_model(f"local-dir:{RunFolder(job.output_dir).model}")

"""From the arguments of `pretrain` and `finetune` to a trained network: everything around the loop."""

from __future__ import annotations

import copy
import json
import zlib
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from reidzoo._files import atomic
from reidzoo.data import Records, ReIDDataset, load_dataset
from reidzoo.data.combine import concatenate
from reidzoo.data.loaders import check_images
from reidzoo.data.ranked_list import keep_best
from reidzoo.errors import ConfigError, CorruptImageError, DataError, ReidzooError
from reidzoo.models import ReIDModel, create_model
from reidzoo.models._chain import evaluation_mode
from reidzoo.training import _distributed, recipes
from reidzoo.training._checkpoint import RunFolder
from reidzoo.training._distributed import World
from reidzoo.training._doubts import doubts
from reidzoo.training._engine import Method, fit, logger
from reidzoo.training._official import take_over
from reidzoo.training._provenance import provenance
from reidzoo.training._tracking import read_history
from reidzoo.training.configs import PretrainConfig, TrainConfig
from reidzoo.training.methods import MethodInfo
from reidzoo.weights import save_model
from reidzoo.weights._saved import header_of


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves behind.

    Attributes:
        model: the trained network, on the CPU, in eval mode: a backbone after `pretrain`, a `ReIDModel` after
            `finetune`.
        checkpoint: its weights as safetensors, for ``create_model("local-dir:<this>")``.
        best: the same of the evaluation with the best mAP, None for a run without `eval_every`.
        history: one row per epoch: epoch, step, loss, seconds and, where the run was evaluated, its metrics.
        metrics: the last evaluation (fractions in [0, 1]), {} if there was none.
    """

    model: nn.Module
    checkpoint: Path
    history: list[dict[str, Any]]
    metrics: dict[str, float]
    best: Path | None = None


@dataclass(frozen=True)
class Job:
    """The arguments of a run, as they go to its ranks."""

    name: str
    method: MethodInfo
    model: str | nn.Module
    data: str | ReIDDataset
    output_dir: Path
    config: TrainConfig
    recipe: str = ""


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
    best = folder.best if folder.best.exists() else None
    return TrainResult(trained.cpu().eval(), folder.model, history, metrics, best)


def _train(job: Job) -> nn.Module:
    """One rank's part."""
    config, folder = job.config, RunFolder(job.output_dir)
    with _distributed.join(config.device) as world, torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)  # initial weights: of a new backbone, and of the method's heads
        data = _load(job)
        others = _unlabelled(getattr(config, "unlabelled", ""))
        backbone = _backbone(job, world)
        aim = {} if data.is_drawn else recipes.target_header(job.recipe, data.name)
        backbone.published = aim  # type: ignore[assignment]  # for the header
        config, resume = _on_main(world, lambda: _open(job, folder, data, world))
        train, *others = _readable([data.train, *others], folder, config.skip_corrupt, world)
        data = replace(data, train=train)
        for doubt in doubts(config, data.train):
            logger.warning("%s", doubt)
        module, _, cls = job.method.cls.partition(":")
        method: Method = getattr(import_module(module), cls)(backbone, data, config, world, *others)
        trained = method.trained()
        _try_out(trained, config.img_size, "img_size")
        if isinstance(config, PretrainConfig) and config.local_crops:
            _try_out(trained, config.local_size, "local_size")
        origin = provenance(job.name, data, config, world.size, job.recipe)
        folder.header = header_of(trained) | origin
        start = getattr(config, "start_from", "")
        first_epoch = take_over(method, Path(start).expanduser()) if start and not resume else 0  # type: ignore[arg-type]
        try:
            fit(method, config, folder, world, resume=resume, first_epoch=first_epoch)
        except CorruptImageError:
            folder.images.unlink(missing_ok=True)  # they are not all sound any more: look at them again
            raise
        trained = method.trained().eval()
        if world.is_main:
            save_model(trained, folder.model, **origin)
        _distributed.barrier()
    return trained


def _load(job: Job) -> ReIDDataset:
    """The data; of the training images those that the settings choose."""
    data, config = _with_images(load_dataset(job.data)), job.config
    if isinstance(config, PretrainConfig) and config.ranked_list:
        file = Path(config.ranked_list).expanduser()
        best = keep_best(data.train, file, config.data_fraction, skip_missing=config.skip_corrupt)
        data = replace(data, train=best)
    return data


def _unlabelled(name: str) -> list[Records]:
    """The images without identities that a method may use too, as far as the settings name some."""
    try:
        return [_with_images(load_dataset(name)).train] if name else []
    except DataError as e:
        raise type(e)(f"unlabelled={name!r} (command line: --unlabelled): {e}") from e


def _with_images(data: ReIDDataset) -> ReIDDataset:
    if len(data.train) == 0:
        raise DataError(
            f"{data.name} at {data.root} has no training images. To train on the images of all its splits, write "
            f"{data.name}@all."
        )
    return data


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


@torch.no_grad()
def _try_out(network: Any, size: tuple[int, int], setting: str) -> None:
    """Have a black image described before the first step.

    Raises:
        ConfigError: the network does not take images of this size, or its `embed_dim` is not the width of its output.
    """
    name = getattr(network, "reidzoo_name", "") or type(getattr(network, "backbone", network)).__name__
    image = next(network.parameters()).new_zeros(1, 3, *size)
    try:
        with evaluation_mode(network):
            found = tuple(network(image).shape)
    except (ReidzooError, torch.OutOfMemoryError):
        raise
    except (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError) as e:
        raise ConfigError(
            f"{name} cannot describe an image of {size[0]}x{size[1]} pixels: {shorten(str(e), 300)} Choose another "
            f"{setting} (command line: --{setting.replace('_', '-')} HEIGHTxWIDTH)."
        ) from e
    if found != (1, network.embed_dim):
        raise ConfigError(
            f"{name} gives {found} for one image, but its embed_dim says (1, {network.embed_dim}). Set embed_dim to "
            "the width of its output, (B, embed_dim)."
        )


def _open(job: Job, folder: RunFolder, data: ReIDDataset, world: World) -> tuple[TrainConfig, bool]:
    """Claim the run folder; return the settings of this number of ranks, and whether a run goes on."""
    before = None if job.config.overwrite else folder.record()
    config = _same_images_per_step(job.config, before, world.size) if before else job.config
    name = job.model if isinstance(job.model, str) else getattr(job.model, "reidzoo_name", type(job.model).__name__)
    run = {
        "method": job.name,
        "model": name,
        "data": job.data if isinstance(job.data, str) else data.name,
        "images": len(data.train),
        "images_per_step": config.batch_size * world.size,
        "ranks": world.size,
        "config": asdict(job.config),  # as given: the same command is the same run on any number of ranks
    }
    resume = folder.open(run, resume=config.resume, overwrite=config.overwrite)
    if resume and before and before.get("ranks", world.size) != world.size:
        logger.warning(
            "the number of ranks changes from %d to %d, and the images per step stay %d (%d on each rank). Rounding "
            "will differ, and so will the statistics of BatchNorm where each rank has its own.",
            before["ranks"], world.size, run["images_per_step"], config.batch_size,
        )  # fmt: skip
    return config, resume


def _same_images_per_step(config: TrainConfig, before: dict[str, Any], ranks: int) -> TrainConfig:
    """Share the images of a step of the run among `ranks`, if the caller left `batch_size` as it was.

    Raises:
        ConfigError: the images cannot be shared evenly, in whole identities.
    """
    images = before["images_per_step"]
    if config.batch_size != before["config"]["batch_size"] or config.batch_size * ranks == images:
        return config  # where the caller's own batch_size makes other steps, the run folder says so
    try:
        if images % ranks:
            raise ConfigError(f"{images} is not a multiple of {ranks}")
        return replace(config, batch_size=images // ranks)
    except ConfigError as e:
        fitting = [n for n in range(1, 2 * ranks + 1) if images % n == 0 and _is_valid(config, images // n)]
        raise ConfigError(
            f"the run makes {images} images per step, and {ranks} ranks cannot share them: {e}. Numbers of ranks that "
            f"can: {', '.join(map(str, fitting)) or 'those it had before'}."
        ) from e


def _is_valid(config: TrainConfig, batch_size: int) -> bool:
    try:
        replace(config, batch_size=batch_size)
    except ConfigError:
        return False
    return True


def _readable(parts: list[Records], folder: RunFolder, skip: bool, world: World) -> list[Records]:
    """`parts` without their unreadable images."""
    corrupt = _on_main(world, lambda: _find_corrupt(folder, concatenate(parts), skip))
    if not corrupt:
        return parts
    ends = np.cumsum([len(part) for part in parts])
    good = np.ones(ends[-1], dtype=bool)
    good[corrupt] = False
    return [part.select(rows) for part, rows in zip(parts, np.split(good, ends[:-1]), strict=True)]


def _find_corrupt(folder: RunFolder, train: Records, skip: bool) -> list[int]:
    """Decode all training images once per run folder; return the rows that cannot be."""
    report = folder.images
    known = json.loads(report.read_text()) if report.exists() else {}
    which = f"{zlib.crc32(chr(10).join(train.path).encode()):08x}"  # other images, or the same in another order
    if (known.get("checked"), known.get("paths")) != (len(train), which):
        known = {"checked": len(train), "paths": which, "corrupt": [list(pair) for pair in check_images(train)]}
    corrupt = [i for i, _ in known["corrupt"]]
    if corrupt and (not skip or len(corrupt) == len(train)):
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

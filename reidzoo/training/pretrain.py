"""`pretrain`: teach a backbone what persons look like, before any data set's labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from reidzoo.data import ReIDDataset
from reidzoo.training import recipes
from reidzoo.training._run import Job, TrainResult, run
from reidzoo.training.configs import TrainConfig, make_config
from reidzoo.training.methods import PRETRAIN


def pretrain(
    model: str | nn.Module,
    data: str | Path | ReIDDataset,
    *,
    method: str | None = None,
    recipe: str | None = None,
    output_dir: str | Path,
    config: TrainConfig | dict[str, Any] | None = None,
    **overrides: Any,
) -> TrainResult:
    """Pre-train a backbone on images grouped by person.

    A run that was stopped, started again with the same arguments, goes on from its last checkpoint. ``devices=N``
    starts N ranks (call it under ``if __name__ == "__main__":``); under torchrun the call joins the job.

    Args:
        model: a name for `create_model`, or a backbone (it is copied, not changed).
        data: a data set or its name; only its training images are used.
        method: ``"cion"`` (None: that, or the recipe's) or ``"dino"``, which needs no identities.
        recipe: published settings to start from, one of ``reidzoo.recipes.list("cion/*")``.
        output_dir: run folder for checkpoints, ``metrics.jsonl`` and ``curves.png``.
        config: settings, see `CIONConfig` and `DINOConfig`: a mapping of those that differ from the recipe's or the
            method's, or a whole config object; the keyword `overrides` replace single fields.

    Returns:
        The trained backbone (the teacher) and the run's record.

    Raises:
        ConfigError: an unknown method, recipe or field, a value out of range.
        DataError: the data set is not where it should be, or images cannot be read.
        TrainingError: the folder holds another run, or the loss is not finite.

    Example:
        >>> result = reidzoo.pretrain("resnet50_ibn", "folder:/data/people", output_dir="runs/r50")  # doctest: +SKIP
    """
    method, config = recipes.apply(recipe, method, config, "pretrain")
    method = method or "cion"
    info = PRETRAIN[method]
    source = str(data) if isinstance(data, Path) else data
    settings = make_config(info.config, config, overrides)
    return run(Job(method, info, model, source, Path(output_dir), settings, recipe or ""))

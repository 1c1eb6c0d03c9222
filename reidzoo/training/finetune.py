"""`finetune`: fit a backbone to a data set with identity labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from reidzoo.data import ReIDDataset
from reidzoo.training import recipes
from reidzoo.training._run import Job, TrainResult, run
from reidzoo.training.configs import TrainConfig, make_config
from reidzoo.training.methods import FINETUNE


def finetune(
    model: str | nn.Module,
    data: str | Path | ReIDDataset,
    *,
    method: str | None = None,
    recipe: str | None = None,
    output_dir: str | Path,
    config: TrainConfig | dict[str, Any] | None = None,
    **overrides: Any,
) -> TrainResult:
    """Fine-tune a backbone with identity labels and evaluate it on the data set's query and gallery images.

    A run that was stopped, started again with the same arguments, goes on from its last checkpoint. ``devices=N``
    starts N ranks (call it under ``if __name__ == "__main__":``); under torchrun the call joins the job.

    Args:
        model: a name for `create_model` (which starts from random weights), a backbone, or a `ReIDModel` whose
            backbone is taken; the caller's module is copied, not changed.
        data: a data set or its name.
        method: ``"transreid"`` (None: that, or the recipe's), ``"bot"``, ``"mgn"``, ``"pcb"`` or ``"baseline"``.
        recipe: published settings to start from, one of ``reidzoo.recipes.list("*/market1501/*")``. Its method is
            taken; its backbone and data set are only what it was published for.
        output_dir: run folder for checkpoints, ``metrics.jsonl`` and ``curves.png``.
        config: settings, see `TransReIDConfig` and those of the other methods: a mapping of those that differ from the
            recipe's or the method's, or a whole config object; the keyword `overrides` replace single fields.

    Returns:
        The `ReIDModel`, the run's record and its last evaluation.

    Raises:
        ConfigError: an unknown method, recipe or field, a value out of range.
        DataError: the data set is not where it should be, or images cannot be read.
        TrainingError: the folder holds another run, or the loss is not finite.

    Example:
        >>> reidzoo.finetune("resnet50_ibn", "market1501:/data/market", output_dir="runs/market")  # doctest: +SKIP
    """
    method, config = recipes.apply(recipe, method, config, "finetune")
    method = method or "transreid"
    info = FINETUNE[method]
    source = str(data) if isinstance(data, Path) else data
    settings = make_config(info.config, config, overrides)
    return run(Job(method, info, model, source, Path(output_dir), settings, recipe or ""))

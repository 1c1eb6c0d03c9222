"""Where a network comes from, in a few words that go into every file of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from reidzoo.data import ReIDDataset
from reidzoo.training._checkpoint import FREE
from reidzoo.training.configs import TrainConfig

_FILES = ("ranked_list", "start_from")  # settings that are paths: their folders are nobody's business


def provenance(method: str, data: ReIDDataset, config: TrainConfig, ranks: int, recipe: str = "") -> dict[str, str]:
    """Return header entries: method, recipe, data, settings that decide what comes out, and versions.

    Args:
        method: name of the method.
        data: what it trained on, after images were left out.
        config: the settings of a rank.
        ranks: how many there are.
        recipe: name of the recipe that the settings come from, if any.
    """
    import timm

    settings: Mapping[str, Any] = asdict(config)
    kept = {name: value for name, value in settings.items() if name not in FREE or name == "batch_size"}
    kept |= {name: Path(kept[name]).name for name in _FILES if kept.get(name)}
    return {
        "method": method,
        "recipe": recipe,
        "data": data.name,
        "images": str(len(data.train)),
        "ranks": str(ranks),
        "settings": json.dumps(kept),
        "torch": str(torch.__version__),  # a type of its own, which no checkpoint should need
        "timm": timm.__version__,
    }

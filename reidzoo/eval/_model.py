"""Models given by name, file or run folder."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from reidzoo._logging import get_logger

_log = get_logger(__name__)


def load_model(model: nn.Module | str | Path, img_size: int | tuple[int, int] | None = None) -> nn.Module:
    """Return a module as it is; build others as `create_model` does, and say so if the weights are random.

    Args:
        model: A module, a name for `create_model`, or a file or run folder of reidzoo.
        img_size: (height, width) that the input will have; None: the model's own.
    """
    from reidzoo.models import create_model

    if isinstance(model, nn.Module):
        return model
    if isinstance(model, Path) or Path(model).exists():
        return create_model(f"local-dir:{model}", img_size=img_size)
    if model.startswith(("local-dir:", "hf-hub:")):
        return create_model(model, img_size=img_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the same ones each time, and on every rank
        built = create_model(model, img_size=img_size)
    _log.warning("%r has random weights; pass create_model(%r, weights=...) for trained ones.", model, model)
    return built

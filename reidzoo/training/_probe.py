"""How good the features of a run are by now: search a gallery with queries that it never learns from."""

from __future__ import annotations

import torch
from torch import nn

from reidzoo.data import ReIDDataset, load_dataset
from reidzoo.errors import ConfigError, DataError


def held_out(data: ReIDDataset, probe: str = "", *, eval_every: int = 0) -> ReIDDataset | None:
    """Return the data set whose query and gallery a run is evaluated on, or None if there is none.

    Args:
        data: What the run trains on; its own query and gallery are taken if it has them.
        probe: Name of another data set to take instead, as for `load_dataset`.
        eval_every: Whether evaluations between the epochs were asked for.

    Raises:
        ConfigError: Evaluations were asked for, and there is nothing to evaluate on.
        DataError: `probe` has no query or no gallery.
    """
    chosen = load_dataset(probe) if probe else data
    if len(chosen.query) and len(chosen.gallery):
        return chosen
    if probe:
        raise DataError(
            f"probe {probe!r} has {len(chosen.query)} query and {len(chosen.gallery)} gallery images; it needs both. "
            f"What a data set has, says: reidzoo data check {probe}"
        )
    if eval_every:
        raise ConfigError(
            f"eval_every is {eval_every}, but {data.name} has no query and gallery to evaluate on. Name a data set "
            "that has them, like probe='market1501:/data/market' (command line: --probe), or leave eval_every out."
        )
    return None


def retrieval(
    model: nn.Module,
    data: ReIDDataset | None,
    *,
    img_size: tuple[int, int],
    device: torch.device,
    num_workers: int,
) -> dict[str, float]:
    """Return mAP, Rank-1/5/10 and mINP of `model` on `data` as fractions, {} without data.

    `model` may be in training: it is back in its mode afterwards, and no statistic of it has changed.
    """
    if data is None:
        return {}
    from reidzoo.eval.evaluate import evaluate

    result = evaluate(model, data, img_size=img_size, device=device, num_workers=num_workers, distributed=False)
    ranks = {f"Rank-{k}": float(result.cmc[k]) for k in (1, 5, 10) if k <= len(result.cmc)}
    return {"mAP": result.mAP, **ranks, "mINP": result.mINP}

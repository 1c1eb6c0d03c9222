"""A model and a data set in, retrieval metrics out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from reidzoo._logging import get_logger
from reidzoo.data import Records, ReIDDataset, load_dataset
from reidzoo.errors import DataError
from reidzoo.eval.features import ImageTransform, extract_features
from reidzoo.eval.metrics import Convention, Metric, compute_metrics
from reidzoo.eval.report import EvalResult

_log = get_logger(__name__)


def evaluate(
    model: nn.Module | str | Path,
    data: ReIDDataset | str | Path,
    *,
    metric: Metric = "cosine",
    ap: Convention = "rectangle",
    flip: bool = True,
    batch_size: int = 64,
    num_workers: int = 2,
    device: str | torch.device = "auto",
    img_size: int | tuple[int, int] | None = None,
    transform: ImageTransform | None = None,
) -> EvalResult:
    """Search the gallery of `data` for each of its queries, by the rules of `compute_metrics`.

    Args:
        model: A module that maps (B, 3, H, W) to (B, D), a name for `create_model`, or a file or run folder of
            reidzoo.
        data: A data set or its name, such as ``"market1501:/data/market"`` or ``"folder:/my/crops"``.
        metric: ``"cosine"`` or ``"euclidean"``.
        ap: ``"rectangle"`` or ``"trapezoid"``, see `compute_metrics`.
        flip: Average the features of each image and its mirror image.
        batch_size: Images per forward pass.
        num_workers: Processes that decode images.
        device: As in `extract_features`.
        img_size: (height, width); None: the model's own.
        transform: As in `extract_features`.

    Raises:
        DataError: The data set has no query or no gallery, or no query has a true match.
        CorruptImageError: An image cannot be decoded; names it.
        UnknownModelError, UnknownDatasetError: As from `create_model` and `load_dataset`.
    """
    dataset = load_dataset(data)
    for split in ("query", "gallery"):
        if len(getattr(dataset, split)) == 0:
            raise DataError(
                f"The data set {dataset.name} at {dataset.root} has no {split} images, and evaluation "
                f"needs both query and gallery. With folders: put them under {dataset.root}/query/<identity>/ and "
                f"{dataset.root}/gallery/<identity>/; with a CSV: give the rows split=query and split=gallery."
            )
    if not isinstance(model, nn.Module):
        model = _load(model, img_size)

    def extract(records: Records, desc: str) -> NDArray[np.float32]:
        return extract_features(
            model, records, batch_size=batch_size, flip=flip, num_workers=num_workers, device=device,
            img_size=img_size, transform=transform, desc=desc,
        )  # fmt: skip

    query, gallery = dataset.query, dataset.gallery
    return compute_metrics(
        extract(query, "Query features"),
        extract(gallery, "Gallery features"),
        query.pid, gallery.pid, query.camid, gallery.camid,
        metric=metric, ap=ap,
    )  # fmt: skip


def _load(name: str | Path, img_size: int | tuple[int, int] | None) -> nn.Module:
    from reidzoo.models import create_model

    if isinstance(name, Path) or Path(name).exists():
        return create_model(f"local-dir:{name}", img_size=img_size)
    if not name.startswith(("local-dir:", "hf-hub:")):
        _log.warning(
            "%r is evaluated with random weights; pass create_model(%r, weights=...) for trained ones.", name, name
        )
    return create_model(name, img_size=img_size)

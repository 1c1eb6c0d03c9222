"""A model and a data set in, retrieval metrics out; or several models on several data sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from reidzoo.data import ReIDDataset, load_dataset
from reidzoo.errors import DataError
from reidzoo.eval._embed import Precision
from reidzoo.eval._images import ImageTransform
from reidzoo.eval._model import load_model
from reidzoo.eval._workers import Workers, share_work
from reidzoo.eval.features import Floats, extract_features
from reidzoo.eval.metrics import Convention, Metric, compute_metrics
from reidzoo.eval.protocols import MultiQuery, Protocol
from reidzoo.eval.report import EvalResult
from reidzoo.eval.rerank import Rerank
from reidzoo.eval.tables import Row, published_result

Model = nn.Module | str | Path
Data = ReIDDataset | str | Path
_POOLS: dict[str, Any] = {"multi_query": "average", "multi_query_max": "max"}
_RULES = ("metric", "ap", "protocol", "rerank", "max_rank")


class DatasetFeatures(NamedTuple):
    """Features (n, D) of the images of a data set, in its order.

    Attributes:
        query: Of the query images.
        gallery: Of the gallery.
        multi_query: Of the further query images, where the protocol asks for them.
    """

    query: Floats
    gallery: Floats
    multi_query: Floats | None = None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One model on one data set, with all that pictures of the result need.

    Attributes:
        model: The network.
        data: The data set.
        features: Of its images.
        result: The metrics.
        row: The line of a table: names, result and the published figures.
        folder: Where files of this pair go, below a folder for all: ``<model>/<data>``.
    """

    model: nn.Module
    data: ReIDDataset
    features: DatasetFeatures
    result: EvalResult
    row: Row
    folder: Path


def evaluate(
    model: Model,
    data: Data,
    *,
    metric: Metric = "cosine",
    ap: Convention = "rectangle",
    protocol: str | Protocol = "market",
    rerank: Rerank | bool = False,
    flip: bool = True,
    scales: Sequence[float] = (1.0,),
    precision: Precision = "fp32",
    batch_size: int = 64,
    num_workers: int = 2,
    device: str | torch.device = "auto",
    img_size: int | tuple[int, int] | None = None,
    transform: ImageTransform | None = None,
    features_dir: str | Path | None = None,
    overwrite: bool = False,
    distributed: bool | None = None,
) -> EvalResult:
    """Search the gallery of `data` for each of its queries, by the rules of `compute_metrics`.

    Under torchrun the ranks share the images, and each returns the result.

    Args:
        model: A module that maps (B, 3, H, W) to (B, D), a name for `create_model`, or a file or run folder of
            reidzoo.
        data: A data set or its name, such as ``"market1501:/data/market"`` or ``"folder:/my/crops"``.
        metric: ``"cosine"`` or ``"euclidean"``.
        ap: ``"rectangle"`` or ``"trapezoid"``, see `compute_metrics`.
        protocol: As in `compute_metrics`, or ``"multi_query"`` (``"multi_query_max"``): search with all images of the
            query's identity and camera that the data set has (Market-1501: ``gt_bbox``), by the mean (the nearest).
        rerank: Re-rank first, with these settings (True: the usual ones of `Rerank`).
        flip: Average the features of each image and its mirror image.
        scales: Average over these multiples of the input size, see `extract_features`.
        precision: ``"fp32"``, ``"bf16"``, ``"fp16"`` or ``"auto"``, see `extract_features`.
        batch_size: Images per forward pass.
        num_workers: Processes that decode images.
        device: As in `extract_features`.
        img_size: (height, width); None: the model's own.
        transform: As in `extract_features`.
        features_dir: Folder to keep the features in (``query.npy``, ``gallery.npy``). What is there already, by the
            same weights and settings, is used; what was stopped goes on.
        overwrite: Make the features in `features_dir` anew if they are others.
        distributed: As in `extract_features`.

    Raises:
        DataError: The data set has no query or no gallery, or no query has a true match.
        CorruptImageError: An image cannot be decoded; names it.
        UnknownModelError, UnknownDatasetError: As from `create_model` and `load_dataset`.
    """
    rules: dict[str, Any] = {"metric": metric, "ap": ap, "protocol": protocol, "rerank": rerank}
    how: dict[str, Any] = {
        "flip": flip, "scales": scales, "precision": precision, "batch_size": batch_size, "num_workers": num_workers,
        "device": device, "img_size": img_size, "transform": transform, "overwrite": overwrite,
    }  # fmt: skip
    dataset = _complete(load_dataset(data))
    with share_work(distributed) as workers:
        folder = None if features_dir is None else Path(features_dir)
        return _measure(load_model(model, img_size), dataset, folder, workers, rules, how)[1]


def cross_evaluate(
    models: Mapping[str, Model],
    data: Sequence[Data],
    *,
    features_dir: str | Path | None = None,
    distributed: bool | None = None,
    **options: Any,
) -> Iterator[Evaluation]:
    """Evaluate every model on every data set, one after the other.

    Args:
        models: By the names to show.
        data: Data sets or their names.
        features_dir: As in `evaluate`, with a folder for each model and data set below it.
        distributed: As in `evaluate`.
        **options: Further arguments of `evaluate`.

    Yields:
        An `Evaluation` for each pair. Its ``row`` is small; keep it, and let the features go.

    Example:
        >>> rows = [e.row for e in cross_evaluate({"a": a}, ["market1501", "msmt17"])]  # doctest: +SKIP
        >>> print(results_table(rows))  # doctest: +SKIP
    """
    rules = {key: options.pop(key) for key in _RULES if key in options}
    datasets = {name: _complete(dataset) for name, dataset in _named([load_dataset(d) for d in data]).items()}
    with share_work(distributed) as workers:
        for model_name, model in models.items():
            network = load_model(model, options.get("img_size"))
            for data_name, dataset in datasets.items():
                folder = Path(_as_file(model_name), _as_file(data_name))
                where = None if features_dir is None else Path(features_dir, folder)
                features, result = _measure(network, dataset, where, workers, rules, options)
                row = Row(model_name, data_name, result, published_result(network, dataset))
                yield Evaluation(network, dataset, features, result, row, folder)


def _measure(
    network: nn.Module,
    dataset: ReIDDataset,
    folder: Path | None,
    workers: Workers,
    rules: dict[str, Any],
    options: dict[str, Any],
) -> tuple[DatasetFeatures, EvalResult]:
    """Extract on all ranks, compare on the first."""
    protocol, together = rules.get("protocol", "market"), workers.size > 1
    features = dataset_features(network, dataset, protocol=protocol, folder=folder, distributed=together, **options)
    return features, workers.first(lambda: score(dataset, features, **rules))


def dataset_features(
    model: nn.Module,
    dataset: ReIDDataset,
    *,
    protocol: str | Protocol = "market",
    folder: str | Path | None = None,
    **options: Any,
) -> DatasetFeatures:
    """Extract the features that an evaluation on `dataset` needs.

    Args:
        model: Maps (B, 3, H, W) to (B, D).
        dataset: With query and gallery.
        protocol: Says whether the further query images are needed.
        folder: Where to keep them, as ``query.npy``, ``gallery.npy`` and ``multi_query.npy``; None: in memory.
        **options: Of `extract_features`.

    Raises:
        DataError: A split that is needed is empty.
    """
    found: dict[str, Floats] = {}
    for split in ("query", "gallery", *(["multi_query"] if protocol in _POOLS else [])):
        records = getattr(dataset, split)
        if len(records) == 0:
            raise DataError(
                f"The data set {dataset.name} at {dataset.root} has no further query images (multi_query), which the "
                "protocol 'multi_query' searches with. Market-1501 has them in gt_bbox."
            )
        out = None if folder is None else Path(folder, f"{split}.npy")
        found[split] = extract_features(model, records, out=out, desc=f"{split.capitalize()} features", **options)
    return DatasetFeatures(**found)


def score(dataset: ReIDDataset, features: DatasetFeatures, **rules: Any) -> EvalResult:
    """Compute the metrics of `dataset` from features of its images.

    Args:
        dataset: Says identities and cameras.
        features: As from `dataset_features`.
        **rules: Of `evaluate`: metric, ap, protocol, rerank; or others of `compute_metrics`.
    """
    query, gallery, more = dataset.query, dataset.gallery, dataset.multi_query
    protocol = rules.get("protocol", "market")
    if protocol in _POOLS:
        assert features.multi_query is not None
        rules["protocol"] = MultiQuery(
            features=features.multi_query, ids=more.pid, cams=more.camid, pool=_POOLS[protocol]
        )  # fmt: skip
    if isinstance(rules.get("rerank"), bool):
        rules["rerank"] = Rerank() if rules["rerank"] else None
    ids, cams = (query.pid, gallery.pid), (query.camid, gallery.camid)
    return compute_metrics(features.query, features.gallery, *ids, *cams, **rules)


def _complete(dataset: ReIDDataset) -> ReIDDataset:
    for split in ("query", "gallery"):
        if len(getattr(dataset, split)) == 0:
            raise DataError(
                f"The data set {dataset.name} at {dataset.root} has no {split} images, and evaluation "
                f"needs both query and gallery. With folders: put them under {dataset.root}/query/<identity>/ and "
                f"{dataset.root}/gallery/<identity>/; with a CSV: give the rows split=query and split=gallery."
            )
    return dataset


def _named(datasets: Sequence[ReIDDataset]) -> dict[str, ReIDDataset]:
    """Data sets by name; those that share one by name and place."""
    names = [d.name for d in datasets]
    return {d.name if names.count(d.name) == 1 else f"{d.name}:{d.root}": d for d in datasets}


def _as_file(name: str) -> str:
    """`name` as that of a folder."""
    return "".join(c if c.isalnum() or c in "-_.@+" else "-" for c in name).strip("-.")

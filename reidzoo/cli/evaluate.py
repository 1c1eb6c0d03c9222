"""`reidzoo evaluate`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from reidzoo.cli._model import add_inference_arguments, add_model_argument, load_model
from reidzoo.data import ReIDDataset, load_dataset

_ROWS, _TOP = 8, 10  # of the ranking picture


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    add_model_argument(parser)
    parser.add_argument("data", metavar="DATA", help="a data set with query and gallery images, like market1501:FOLDER")
    parser.add_argument(
        "--metric", choices=("cosine", "euclidean"), default="cosine", help="distance (default: cosine)"
    )
    add_inference_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--output-dir",
        metavar="DIR",
        type=Path,
        help="also write metrics.json and ranking.png, what was found for some queries (passes the gallery once more)",
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the table, and write the files that were asked for."""
    data = load_dataset(args.data)
    model = load_model(args, args.img_size)
    from reidzoo.eval.evaluate import evaluate

    options = {name: getattr(args, name) for name in ("img_size", "batch_size", "num_workers", "flip", "device")}
    result = evaluate(model, data, metric=args.metric, **options)
    print(json.dumps(result.to_dict(), indent=2) if args.json else result.table())
    if args.output_dir:
        result.save(args.output_dir)
        picture = _draw(model, data, args.output_dir / "ranking.png", args.metric, options)
        if not args.json:
            print(f"\nfolder  {args.output_dir}   (metrics.json, {picture.name})")
    return 0


def _draw(model: Any, data: ReIDDataset, path: Path, metric: Any, options: dict[str, Any]) -> Path:
    """Draw the ranking lists of queries from all over the data set."""
    from reidzoo.eval import draw_ranking, extract_features, search

    rows = np.unique(np.linspace(0, len(data.query) - 1, _ROWS).round().astype(np.int64))
    query, gallery = data.query.select(rows), data.gallery
    features = extract_features(model, query, desc="Queries to draw", **options)
    others = extract_features(model, gallery, desc="Gallery to draw", **options)
    # Neighbours that scoring ignores are not drawn: ask for enough to fill the row without them.
    ignored = max(int(np.sum((gallery.pid == pid) | (gallery.pid == -1))) for pid in query.pid)
    distances, indices = search(features, others, k=_TOP + ignored, metric=metric)
    return draw_ranking(query, gallery, distances, indices, path, top=_TOP)

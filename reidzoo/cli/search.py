"""`reidzoo search`."""

from __future__ import annotations

import argparse
import json
import shlex
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from reidzoo.cli._model import add_inference_arguments, add_model_argument, inference_options, load_model, model_name
from reidzoo.cli._table import table
from reidzoo.cli.extract import SPLITS, image_records
from reidzoo.data import Records
from reidzoo.errors import ConfigError

_MADE_WITH = ("img_size", "flip", "scales", "precision")  # what queries must have in common with the gallery


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands and their flags."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="search_command", required=True)

    command = commands.add_parser("build", help="extract a gallery's features and keep them as an index")
    add_model_argument(command)
    command.add_argument("images", metavar="IMAGES", help="an image, a folder (with all below it), or a data set")
    command.add_argument("folder", metavar="DIR", type=Path, help="folder of the index")
    command.add_argument("--split", choices=SPLITS, help="one part of a data set (default: all of it)")
    command.add_argument("--metric", choices=("cosine", "euclidean"), default="cosine", help="distance")
    command.add_argument(
        "--kind",
        metavar="FACTORY",
        default="exact",
        help="exact, or a factory string of faiss for galleries that outgrow it, like IVF1024,Flat or HNSW32",
    )
    command.add_argument("--parameters", metavar="P", default="", help="of an approximate search, like nprobe=16")
    add_inference_arguments(command)
    command.set_defaults(search_run=_build)

    command = commands.add_parser("query", help="find the images of an index that show the same persons")
    command.add_argument("folder", metavar="DIR", type=Path, help="folder of the index")
    command.add_argument("images", metavar="IMAGES", help="an image, a folder (with all below it), or a data set")
    command.add_argument("--split", choices=SPLITS, help="one part of a data set (default: all of it)")
    command.add_argument("-k", metavar="K", type=int, default=10, help="neighbours of each image (default: 10)")
    command.add_argument("--model", metavar="MODEL", help="where the index' model is now, if it was moved")
    command.add_argument("--weights", metavar="FILE", type=Path, help="where its weights are now")
    command.add_argument("--parameters", metavar="P", help="search an approximate index differently")
    command.add_argument("--batch-size", metavar="N", type=int, default=64, help="images per forward pass")
    command.add_argument("--num-workers", metavar="N", type=int, default=2, help="loader processes (default: 2)")
    command.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(search_run=_query)


def run(args: argparse.Namespace) -> int:
    """Run one of the sub-commands."""
    code: int = args.search_run(args)
    return code


def _build(args: argparse.Namespace) -> int:
    records = image_records(args.images, args.split)
    model, options = load_model(args, args.img_size), inference_options(args)
    from reidzoo.eval import SearchIndex, extract_features, load_features
    from reidzoo.eval.index import FEATURES

    extract_features(model, records, out=args.folder / FEATURES, desc="Gallery features", **options)
    features = load_features(args.folder / FEATURES)
    index = SearchIndex(features, metric=args.metric, kind=args.kind, parameters=args.parameters)
    name = model_name(args.model)
    if name.startswith("local-dir:"):
        name = f"local-dir:{Path(name.removeprefix('local-dir:')).resolve()}"
    weights = None if args.weights is None else str(args.weights.resolve())
    made_with = {key: options[key] for key in _MADE_WITH}
    index.save(args.folder, model=name, weights=weights, pretrained=args.pretrained, made_with=made_with)
    print(f"{len(index)} images, {features.values.shape[1]} dimensions, {args.kind}: {args.folder}")
    print(f"next    reidzoo search query {shlex.quote(str(args.folder))} IMAGES")
    return 0


def _query(args: argparse.Namespace) -> int:
    from reidzoo.eval import SearchIndex, extract_features, load_features

    index = SearchIndex.open(args.folder, parameters=args.parameters)
    records = image_records(args.images, args.split)
    model = _model_of(index.about, args)
    options: dict[str, Any] = {key: index.about["made_with"][key] for key in _MADE_WITH}
    options |= {key: getattr(args, key) for key in ("batch_size", "num_workers", "device")}
    if options["img_size"] is not None:
        options["img_size"] = tuple(options["img_size"])
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "query.npy"
        extract_features(model, records, out=out, desc="Query features", **options)
        found = index.search(load_features(out), args.k)
    assert index.features is not None
    if args.json:
        print(json.dumps(_as_json(records, index.features.records, found), indent=1))
    else:
        print(_as_table(records, index.features.records, found))
    return 0


def _model_of(about: dict[str, Any], args: argparse.Namespace) -> Any:
    """Build the model that the index was made with; `SearchIndex.search` checks that it is."""
    if not {"model", "made_with"} <= about.keys():
        raise ConfigError(
            f"{args.folder} does not say which model made it. Search it from Python (reidzoo.eval.SearchIndex), or "
            "build it with: reidzoo search build"
        )
    wanted = argparse.Namespace(
        model=args.model or about["model"],
        weights=args.weights or about.get("weights"),
        pretrained=bool(about.get("pretrained")) and not args.weights,
    )
    size = about["made_with"]["img_size"]
    return load_model(wanted, None if size is None else tuple(size))


def _as_json(query: Records, gallery: Records, found: Any) -> dict[str, Any]:
    def hit(g: int, distance: float) -> dict[str, Any]:
        return {
            "path": gallery.path[g], "distance": round(distance, 6),
            "pid": int(gallery.pid[g]), "camid": int(gallery.camid[g]),
        }  # fmt: skip

    rows = zip(query.path, found.indices.tolist(), found.distances.tolist(), strict=True)
    hits = [
        {"query": path, "found": [hit(g, d) for g, d in zip(at, distance, strict=True) if g >= 0]}
        for path, at, distance in rows
    ]
    return {"recall": found.recall, "queries": hits}


def _as_table(query: Records, gallery: Records, found: Any) -> str:
    q, place = np.nonzero(found.indices >= 0)
    g, distance = found.indices[q, place], found.distances[q, place]
    rows = [
        (query.path[a] if p == 0 else "", p + 1, f"{d:.4f}", gallery.path[b])
        for a, p, d, b in zip(q.tolist(), place.tolist(), distance.tolist(), g.tolist(), strict=True)
    ]
    text = table(("query", "place", "distance", "image"), rows)
    return text if found.recall == 1 else f"{text}\n\nrecall {100 * found.recall:.1f} % of the exact neighbours"

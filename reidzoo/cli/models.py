"""`reidzoo models`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from reidzoo.cli._table import table
from reidzoo.errors import UnknownModelError, did_you_mean
from reidzoo.models import ModelSpec, list_models, model_info
from reidzoo.weights import store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("pattern", metavar="PATTERN", nargs="?", default="*", help="part of a name, or 'resnet*_ibn'")
    parser.add_argument("--family", metavar="NAME", help="one architecture only, such as vit")
    parser.add_argument("--tag", metavar="NAME", help="models with this tag only, such as mobile")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print one row per backbone."""
    pattern = args.pattern if any(c in args.pattern for c in "*?[") else f"*{args.pattern}*"
    names = list_models(pattern, family=args.family, tag=args.tag)
    if not names:
        raise UnknownModelError(f"No model matches {args.pattern!r}.{did_you_mean(args.pattern, list_models())}")
    specs = [model_info(name) for name in names]
    if args.json:
        print(json.dumps([as_json(spec) for spec in specs], indent=2))
        return 0
    header = ["model", "family", "params M", "FLOPs G", "dim", "input", "Market mAP", "Rank-1", "MSMT mAP", "Rank-1"]
    print(table([*header, "weights"], map(_row, specs)))
    print("\nPublished results in percent: the released weights after TransReID's fine-tuning at this input size.")
    print("weights: whether the released file is in the local store. More: reidzoo info NAME, reidzoo weights --help")
    return 0


def as_json(spec: ModelSpec) -> dict[str, object]:
    """All facts of a backbone, its published results, and where its weights are."""
    entry = store.find(spec.name)
    return {**asdict(spec), "results": [asdict(r) for r in spec.results], "weights": str(entry.path) if entry else None}


def _row(spec: ModelSpec) -> list[object]:
    _, height, width = spec.input_size
    flops = None if spec.flops_g is None else f"{spec.flops_g:.2f}"
    facts = [spec.name, spec.family, f"{spec.params_m:.2f}", flops, spec.embed_dim, f"{height}x{width}"]
    # Of several published methods, the one that all backbones have been through.
    results = (r for r in spec.results if r.method == "transreid" and r.img_size == (height, width))
    result = next(results, None)
    published = [result.market_map, result.market_r1, result.msmt_map, result.msmt_r1] if result else [None] * 4
    entry = store.find(spec.name)
    return [*facts, *published, None if entry is None else "linked" if entry.linked else "here"]

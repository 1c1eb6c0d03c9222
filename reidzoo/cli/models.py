"""`reidzoo models`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from reidzoo.cli._table import table
from reidzoo.errors import UnknownModelError, did_you_mean
from reidzoo.models import ModelSpec, list_models, model_info


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
        print(json.dumps([{**asdict(s), "results": [asdict(r) for r in s.results]} for s in specs], indent=2))
        return 0
    header = ["model", "family", "params M", "FLOPs G", "dim", "input", "Market mAP", "Rank-1", "MSMT mAP", "Rank-1"]
    print(table(header, map(_row, specs)))
    print("\nPublished results in percent: CION pre-training, then TransReID's fine-tuning. More: reidzoo info NAME")
    return 0


def _row(spec: ModelSpec) -> list[object]:
    _, height, width = spec.input_size
    facts = [spec.name, spec.family, f"{spec.params_m:.2f}", f"{spec.flops_g:.2f}", spec.embed_dim, f"{height}x{width}"]
    # Of several published methods, the one that all backbones have been through.
    result = next((r for r in spec.results if r.method == "transreid"), None)
    if result is None:
        return [*facts, None, None, None, None]
    return [*facts, result.market_map, result.market_r1, result.msmt_map, result.msmt_r1]

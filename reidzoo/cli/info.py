"""`reidzoo info`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from reidzoo.cli._table import pairs, table
from reidzoo.models import ModelSpec, model_info


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("model", metavar="MODEL", help="a name that `reidzoo models` lists, or an official file name")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the facts, the published results and the published fine-tuning settings."""
    spec = model_info(args.model)
    if args.json:
        print(json.dumps({**asdict(spec), "results": [asdict(r) for r in spec.results]}, indent=2))
        return 0
    print(pairs(_facts(spec)))
    if spec.results:
        header = ["published result", "Market mAP", "Rank-1", "MSMT mAP", "Rank-1"]
        rows = [[r.method, r.market_map, r.market_r1, r.msmt_map, r.msmt_r1] for r in spec.results]
        print(f"\n{table(header, rows)}")
    if spec.finetuning:
        header = ["published fine-tuning", "lr", "batch size", "warm-up epochs"]
        print(f"\n{table(header, [[h.dataset, h.lr, h.batch_size, h.warmup_epochs] for h in spec.finetuning])}")
    print(f"\nload it  reidzoo.create_model({spec.name!r})")
    return 0


def _facts(spec: ModelSpec) -> list[tuple[str, object]]:
    _, height, width = spec.input_size
    return [
        ("name", spec.name),
        ("family", f"{spec.family} ({', '.join(spec.tags)})"),
        ("built on", f"timm {spec.timm_name}"),
        ("feature width", spec.embed_dim),
        ("parameters", f"{spec.params_m:.2f} M"),
        ("FLOPs", f"{spec.flops_g:.2f} G at {height}x{width}, as published"),
        ("input", f"{height}x{width} (height x width); RGB, mean {spec.mean}, std {spec.std}"),
        ("official weights", f"{spec.official_stem}.pth, not shipped: research use, on request to their authors"),
    ]

"""`reidzoo info`."""

from __future__ import annotations

import argparse
import json

from reidzoo.cli._table import pairs, table
from reidzoo.cli.models import as_json
from reidzoo.models import ModelSpec, model_info
from reidzoo.weights import licenses, store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("model", metavar="MODEL", help="a name that `reidzoo models` lists, or an official file name")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the facts, the published results and the published fine-tuning settings."""
    spec = model_info(args.model)
    if args.json:
        print(json.dumps(as_json(spec), indent=2))
        return 0
    print(pairs(_facts(spec)))
    if spec.results:
        header = ["published result", "input", "Market mAP", "Rank-1", "MSMT mAP", "Rank-1"]
        rows = [
            [r.method, f"{r.img_size[0]}x{r.img_size[1]}", r.market_map, r.market_r1, r.msmt_map, r.msmt_r1]
            for r in spec.results
        ]
        print(f"\n{table(header, rows)}")
    if spec.finetuning:
        header = ["recipe of fine-tuning", "lr", "batch size", "warm-up epochs"]
        rows = [[f"cion/{h.dataset}/{spec.name}", f"{h.lr:g}", h.batch_size, h.warmup_epochs] for h in spec.finetuning]
        print(f"\n{table(header, rows)}")
    stored = store.find(spec.name) is not None
    print(f"\nload it  reidzoo.create_model({spec.name!r}{', pretrained=True' if stored else ''})")
    return 0


def _facts(spec: ModelSpec) -> list[tuple[str, object]]:
    _, height, width = spec.input_size
    flops = "not published" if spec.flops_g is None else f"{spec.flops_g:.2f} G at {height}x{width}, as published"
    entry, accepted = store.find(spec.name), licenses.accepted(spec.license)
    file = f"{spec.official_stem}.pth" if spec.official_stem else "FILE"
    here = f"{entry.path}" if entry else f"not here; type: reidzoo weights import {file}"
    return [
        ("name", spec.name),
        ("release", spec.release),
        ("family", f"{spec.family} ({', '.join(spec.tags)})"),
        ("built on", f"timm {spec.timm_name}"),
        ("feature width", spec.embed_dim),
        ("parameters", f"{spec.params_m:.2f} M"),
        ("FLOPs", flops),
        ("input", f"{height}x{width} (height x width); RGB, mean {spec.mean}, std {spec.std}"),
        ("weights", here),
        (
            "licence",
            f"{spec.license} ({'accepted ' + accepted.accepted_at[:10] if accepted else 'not accepted here'}); "
            f"type: reidzoo license show {spec.license}",
        ),
    ]

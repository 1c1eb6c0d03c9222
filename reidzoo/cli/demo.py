"""``reidzoo demo``: the main job, end to end, on people that it draws itself.

Two sets of drawn people. The first is large; its identities stand for those that CION finds in unlabelled videos, and
a backbone is pre-trained on it. The second is small, in Market-1501's layout, with other people: the pre-trained
backbone is fine-tuned on it, and the same backbone from scratch, with the same settings.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reidzoo.eval import EvalResult

MODEL = "timm/test_resnet"
SIZE = (64, 32)
PEOPLE: dict[str, Any] = {"identities": 300, "tracklets": 1, "images": 3}
MARKET: dict[str, Any] = {"identities": 60, "train_identities": 20, "tracklets": 1, "images": 3}
# What a run of minutes needs, and those of the paper do not: a higher learning rate, sharper targets, a teacher that
# follows faster, and BatchNorm in the head, without which it collapses. Local views would cost more than they bring.
PRETRAIN: dict[str, Any] = {
    "epochs": 4,
    "batch_size": 64,
    "num_instances": 4,
    "local_crops": 0,
    "output_dim": 1024,
    "hidden_dim": 512,
    "head_batchnorm": True,
    "lr": 0.02,
    "warmup_epochs": 0.4,
    "weight_decay_end": 0.04,
    "teacher_momentum": 0.97,
    "teacher_temp": 0.03,
    "freeze_last_layer": 0,
}
FINETUNE: dict[str, Any] = {"epochs": 40, "batch_size": 64, "lr": 0.05, "warmup_epochs": 5, "padding": 4}

PRETRAINED, SCRATCH, UNTRAINED = "pre-trained + fine-tuned", "from scratch + fine-tuned", "untrained"

_END = """\
Written to {out}/
  people/, market/            the drawn data sets
  pretrain/                   model.safetensors, metrics.jsonl, curves.png of the pre-training
  finetuned/, scratch/        the same of the two fine-tuning runs
  metrics.json                the table above
  ranking.png                 what the fine-tuned model finds, right and wrong

The same with your own images, one folder per person, and Market-1501:
  reidzoo pretrain resnet50_ibn folder:/data/people --output-dir runs/pretrain
  reidzoo finetune runs/pretrain market1501:/data/Market-1501-v15.09.15 --output-dir runs/market
  reidzoo evaluate runs/market market1501:/data/Market-1501-v15.09.15"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    parser.add_argument("--output-dir", type=Path, default=Path("reidzoo-demo"), help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything: the same seed, the same numbers")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute")


def run(args: argparse.Namespace) -> int:
    """Draw, pre-train, fine-tune twice, evaluate three times, and show what came out."""
    from reidzoo.eval import comparison_table

    started, out = time.perf_counter(), args.output_dir
    people, market = draw_people(out, args.seed)
    results = train(out, f"folder:{people}", f"market1501:{market}", seed=args.seed, device=args.device)
    save(out, results, seed=args.seed)
    gain = 100 * (results[PRETRAINED].mAP - results[SCRATCH].mAP)
    print(f"{comparison_table(results)}\n")
    print(f"Pre-training with CION: {gain:+.1f} points of mAP. {time.perf_counter() - started:.0f} s in all.\n")
    print(_END.format(out=out))
    return 0


def draw_people(out: Path, seed: int) -> tuple[Path, Path]:
    """Write the two data sets: different people, before the same cameras."""
    from reidzoo.data import write_synthetic

    workers = os.cpu_count() or 1
    people = write_synthetic(
        out / "people", layout="folder", seed=2 * seed + 1, camera_seed=seed, workers=workers, **PEOPLE
    )
    market = write_synthetic(
        out / "market", layout="market1501", seed=2 * seed, camera_seed=seed, workers=workers, **MARKET
    )
    return people, market


def train(out: Path, people: str, market: str, *, seed: int, device: str) -> dict[str, EvalResult]:
    """Pre-train on `people`; fine-tune on `market` with and without; evaluate on `market`."""
    import torch

    import reidzoo

    # Half of the cores load and augment, the other half compute: more threads than cores would wait for each other.
    half = max(1, (os.cpu_count() or 1) // 2)
    torch.set_num_threads(half)
    common: dict[str, Any] = {"img_size": SIZE, "seed": seed, "device": device, "num_workers": half}
    pretrained = reidzoo.pretrain(MODEL, people, output_dir=out / "pretrain", **common, **PRETRAIN)
    finetuned = reidzoo.finetune(pretrained.model, market, output_dir=out / "finetuned", **common, **FINETUNE)
    scratch = reidzoo.finetune(MODEL, market, output_dir=out / "scratch", **common, **FINETUNE)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        untrained = reidzoo.create_model(MODEL, img_size=SIZE)
    draw_examples(finetuned.model, market, out / "ranking.png", device)
    models = {PRETRAINED: finetuned.model, SCRATCH: scratch.model, UNTRAINED: untrained}
    return {name: reidzoo.evaluate(model, market, device=device, num_workers=half) for name, model in models.items()}


def draw_examples(model: Any, market: str, path: Path, device: str, queries: int = 6, candidates: int = 40) -> None:
    """Draw the ranking lists of some queries, evenly spread over the data set."""
    import numpy as np

    from reidzoo.data import load_dataset
    from reidzoo.eval import draw_ranking, extract_features
    from reidzoo.eval.search import search

    data = load_dataset(market)
    query = data.query.select(np.linspace(0, len(data.query) - 1, queries).astype(int))
    distances, indices = search(
        extract_features(model, query, device=device),
        extract_features(model, data.gallery, device=device),
        min(candidates, len(data.gallery)),
    )
    draw_ranking(query, data.gallery, distances, indices, path, title="Nearest gallery images, after fine-tuning")


def save(out: Path, results: dict[str, EvalResult], *, seed: int) -> None:
    """Write ``metrics.json``: what the table shows, and how it was made."""
    from reidzoo._files import atomic

    rows = {name: result.to_dict() for name, result in results.items()}
    settings = {"model": MODEL, "img_size": SIZE, "pretrain": PRETRAIN, "finetune": FINETUNE}
    with atomic(out / "metrics.json") as temporary:
        temporary.write_text(json.dumps({"seed": seed, "settings": settings, "results": rows}, indent=2) + "\n")

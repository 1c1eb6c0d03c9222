"""What pre-training is worth after the same fine-tuning: CION, DINO and none, on drawn people, over several seeds.

    python tests/benchmarks/bench_pretraining.py                # seeds 0, 1, 2
    python tests/benchmarks/bench_pretraining.py --seeds 0 --output-dir runs   # kept, and gone on with when stopped

Data, network and settings are those of ``reidzoo demo``; DINO has CION's settings and views, so that the two differ in
what is compared with what, and in the images of a batch (CION: K of each identity; DINO: any). A seed decides people,
cameras, initial weights and augmentation.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import Any

import torch

import reidzoo
from reidzoo.cli import demo
from reidzoo.training.configs import CIONConfig

DINO = {k: v for k, v in demo.PRETRAIN.items() if k != "num_instances"}
DINO |= {name: getattr(CIONConfig(), name) for name in ("global_scale", "crop_ratio", "drop_path")}


def compare(seed: int, out: Path) -> dict[str, tuple[float, float]]:
    """Return mAP and Rank-1 in percent of each way to start."""
    people, market = demo.draw_people(out, seed)
    half = max(1, (os.cpu_count() or 1) // 2)
    torch.set_num_threads(half)
    common: dict[str, Any] = {"img_size": demo.SIZE, "seed": seed, "num_workers": half}
    starts: dict[str, Any] = {"scratch": demo.MODEL}
    for method, own in {"dino": DINO, "cion": demo.PRETRAIN}.items():
        run = reidzoo.pretrain(demo.MODEL, f"folder:{people}", method=method, output_dir=out / method, **common, **own)
        starts[method] = run.model
    results = {}
    for name, start in starts.items():
        data = f"market1501:{market}"
        tuned = reidzoo.finetune(start, data, output_dir=out / f"{name}-market", **common, **demo.FINETUNE)
        results[name] = 100 * tuned.metrics["mAP"], 100 * tuned.metrics["Rank-1"]
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output-dir", type=Path, help="keep the runs here")
    args = parser.parse_args()
    started, rows = time.perf_counter(), {}
    with tempfile.TemporaryDirectory() as scratch:
        for seed in args.seeds:
            rows[str(seed)] = compare(seed, (args.output_dir or Path(scratch)) / f"seed{seed}")
    columns = list(next(iter(rows.values())))
    rows["mean"] = {c: tuple(mean(r[c][i] for r in rows.values()) for i in (0, 1)) for c in columns}
    print("| seed | " + " | ".join(f"{c}: mAP (Rank-1)" for c in columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join(f"{row[c][0]:.1f} ({row[c][1]:.1f})" for c in columns) + " |")
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()

"""What each fine-tuning method makes of an untrained network in a short run: mAP before and after, as Markdown.

    python tests/benchmarks/bench_finetune.py

Synthetic people, a small network from random weights, one CPU thread: it shows that the methods learn, not how well
they do on photographs.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch

import reidzoo
from reidzoo.training.methods import FINETUNE

SIZE = (64, 32)
COMMON: dict[str, Any] = {"img_size": SIZE, "batch_size": 32, "num_workers": 0, "device": "cpu", "padding": 4}
# The published rates are for pre-trained networks and for runs of 60 to 120 epochs.
SHORT: dict[str, dict[str, Any]] = {
    "transreid": {"lr": 0.02, "warmup_epochs": 2},
    "bot": {"lr": 0.002, "warmup_epochs": 2},
    "mgn": {"lr": 0.002, "warmup_epochs": 2, "hold_epochs": 10, "num_instances": 4, "img_size": (96, 32),
            "freeze_epochs": 0},
    "pcb": {"lr": 0.01, "trunk_lr_factor": 1.0, "img_size": (96, 48), "padding": 0},
    "baseline": {"lr": 0.02, "trunk_lr_factor": 1.0, "losses": "triplet_mined", "num_instances": 4},
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="timm/test_resnet")
    parser.add_argument("--identities", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--methods", default=",".join(sorted(FINETUNE)))
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| method | mAP untrained | mAP after | Rank-1 after |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        people = reidzoo.data.write_synthetic(
            Path(temporary) / "people", identities=args.identities, cameras=3, images=2, size=SIZE
        )
        for method in args.methods.split(","):
            job = {**COMMON, "epochs": args.epochs, **SHORT[method]}
            torch.manual_seed(0)
            model = reidzoo.create_model(args.model, img_size=job["img_size"])
            before = reidzoo.evaluate(model, f"synthetic:{people}", num_workers=0).mAP
            folder = Path(temporary) / method
            after = reidzoo.finetune(model, f"synthetic:{people}", method=method, output_dir=folder, **job).metrics
            row = (f"`{method}`", f"{100 * before:.1f}", f"{100 * after['mAP']:.1f}", f"{100 * after['Rank-1']:.1f}")
            print("|", " | ".join(row), "|", flush=True)


if __name__ == "__main__":
    main()

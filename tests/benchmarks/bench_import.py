"""Peak memory and time of `import_official` on a whole training checkpoint, beside a plain `torch.load` of it.

    python tests/benchmarks/bench_import.py                    # vit_base: student, teacher, heads, optimizer
    python tests/benchmarks/bench_import.py --model swin_base

The checkpoint is written as the official training writes it, with random numbers and 65,336-wide heads. Each reading
runs in a process of its own, whose peak is reset after the imports (Linux). "added" is the peak above that; "above the
backbone" is what is left of it when the backbone's own tensors are taken off.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

import reidzoo
from reidzoo.models import to_official

READ = """
import json, sys, time
import torch, reidzoo
from reidzoo.weights import import_official
from reidzoo.models import create_model
def memory(field):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field)) * 1024
how, path, name = sys.argv[1:]
open("/proc/self/clear_refs", "w").write("5")
before, start = memory("VmRSS"), time.perf_counter()
if how == "import":
    import_official(path)
else:
    state = torch.load(path, map_location="cpu", weights_only=False)
seconds = time.perf_counter() - start
print(json.dumps({"added": memory("VmHWM") - before, "seconds": seconds}))
"""


def write(name: str, path: Path) -> tuple[int, int]:
    """Write a checkpoint; return its size and that of the backbone in it, in bytes."""
    model = reidzoo.create_model(name)
    state = to_official(model.state_dict(), model)
    size = sum(t.nbytes for t in state.values())
    prefix = "module." if "batchnorm" in reidzoo.model_info(name).tags else ""
    width, out = reidzoo.model_info(name).embed_dim, 65336
    head = {
        "mlp.0.weight": torch.rand(2048, width),
        "mlp.2.weight": torch.rand(2048, 2048),
        "mlp.4.weight": torch.rand(256, 2048),
        "last_layer.weight_g": torch.ones(out, 1),
        "last_layer.weight_v": torch.rand(out, 256),
    }
    network = {f"backbone.{k}": t for k, t in state.items()} | {f"head.{k}": t for k, t in head.items()}
    trained = [t for t in network.values() if t.is_floating_point()]
    content = {
        "student": {f"module.{k}": t.clone() for k, t in network.items()},
        "teacher": {prefix + k: t for k, t in network.items()},
        "optimizer": {
            "state": {i: {"exp_avg": t.clone(), "exp_avg_sq": t.clone()} for i, t in enumerate(trained)},
            "param_groups": [{"lr": np.float64(1e-3), "weight_decay": np.float64(0.04), "params": [0]}],
        },
        "epoch": 100,
        "args": argparse.Namespace(arch=name),
        "Loss": {"center": torch.zeros(1, out)},
    }
    torch.save(content, path)
    return path.stat().st_size, size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_base")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{reidzoo.model_info(args.model).official_stem}.pth"
        total, backbone = write(args.model, path)
        print(f"{args.model}: a checkpoint of {total / 1e6:,.0f} MB, its backbone {backbone / 1e6:,.0f} MB\n")
        env = {**os.environ, "REIDZOO_HOME": f"{folder}/home", "REIDZOO_ACCEPT_LICENSE": "reidzoo"}
        seen = {}
        for how in ("import", "plain torch.load"):
            words = [sys.executable, "-c", READ, how, str(path), args.model]
            done = subprocess.run(words, env=env, capture_output=True, text=True, check=True)
            seen[how] = json.loads(done.stdout)
            added, seconds = seen[how]["added"] / 1e6, seen[how]["seconds"]
            above = f"{added - backbone / 1e6:,.0f} MB above the backbone"
            print(f"{how:17} {added:8,.0f} MB added, {above}, {seconds:.1f} s")
        print(f"\nratio of added memory {seen['import']['added'] / seen['plain torch.load']['added']:.2f}")


if __name__ == "__main__":
    main()

"""Images per second of training: the loop with its loader, one step on tensors made before, and the bare network.

    python tests/benchmarks/bench_train.py                               # CION, small enough for two cores
    python tests/benchmarks/bench_train.py --method transreid
    python tests/benchmarks/bench_train.py --device cuda --model resnet50_ibn --batch-size 120 --size 256 128 \
        --outputs 65336 --local-crops 8 --workers 16 --identities 600

"bare" is forward and backward of the backbone alone on the views of a batch (for CION the student's, and the teacher's
forward on the global ones); "step" is the engine's step (losses, head, clipping, optimiser, moving average) on one
batch that is on the device already; "run" is the loop as `pretrain` and `finetune` run it, with the loader, the log and
all. People are drawn. The three take turns; the best of the rounds is shown.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

import reidzoo
from reidzoo.data.loaders import EpochBatches, build_loader
from reidzoo.training import _distributed
from reidzoo.training._checkpoint import RunFolder
from reidzoo.training._engine import Progress, _Loop
from reidzoo.training.configs import CIONConfig, TransReIDConfig, make_config
from reidzoo.training.methods.cion import CION
from reidzoo.training.methods.transreid import TransReID


def make_loop(args: argparse.Namespace, data: Any, folder: Path, stack: ExitStack) -> _Loop:
    """Return the engine's loop over a new network."""
    settings = {
        "epochs": 10_000,
        "batch_size": args.batch_size,
        "img_size": tuple(args.size),
        "num_workers": args.workers,
        "num_instances": 4,
        "device": args.device,
        "compile": args.compile,
    }
    world = stack.enter_context(_distributed.join(args.device))
    backbone = reidzoo.create_model(args.model, img_size=tuple(args.size)).to(world.device)
    run = RunFolder(folder)
    run.path.mkdir(parents=True)
    if args.method == "cion":
        local = tuple(side // 2 for side in args.size)
        own = {"local_crops": args.local_crops, "local_size": local, "output_dim": args.outputs}
        config: Any = make_config(CIONConfig, None, {**settings, **own})
        method: Any = CION(backbone, data, config, world)
    else:
        config = make_config(TransReIDConfig, None, settings)
        method = TransReID(backbone, data, config, world)
    loop = _Loop(method, config, run, world, resume=False)
    loop.network = method.network.train()
    return loop


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def rate(work: Callable[[int], None], steps: int, images: int, device: torch.device) -> float:
    """Return images per second of `steps` calls, after one that does not count."""
    work(0)
    wait(device)
    started = time.perf_counter()
    for i in range(steps):
        work(i + 1)
    wait(device)
    return steps * images / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=("cion", "transreid"), default="cion")
    parser.add_argument("--model", default="resnet18_ibn")
    parser.add_argument("--size", type=int, nargs=2, default=(128, 64))
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--local-crops", type=int, default=2)
    parser.add_argument("--outputs", type=int, default=4096, help="width of CION's head")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--identities", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1, help="of the network; the workers have one each")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        people = reidzoo.data.write_synthetic(
            Path(temporary) / "people", layout="folder", identities=args.identities, cameras=4, tracklets=1, images=4
        )
        data = reidzoo.load_dataset(f"folder:{people}")
        loop = make_loop(args, data, Path(temporary) / "run", stack)
        method, device = loop.method, loop.world.device
        plans = (method.plan(epoch) for epoch in itertools.count())
        loader = (
            batch
            for epoch, plan in enumerate(plans)
            for batch in build_loader(method.dataset, EpochBatches(plan, epoch), num_workers=args.workers)
        )
        views, pids = next(loader)
        views = views if isinstance(views, list) else [views]
        ready = [v.to(device) for v in views], pids.to(device)
        deferred = args.method == "cion" and method.views.deferred
        images = method.views.finish(ready[0]) if deferred else ready[0]
        backbone = method.network.backbone

        def bare(_: int) -> None:
            with torch.autocast(device.type, loop.dtype, enabled=loop.dtype != torch.float32):
                if args.method == "cion":
                    with torch.no_grad():
                        method.teacher.backbone(torch.cat(images[:2]))
                groups = [images[:2], images[2:]] if len(images) > 1 else [images]
                out = sum(backbone(torch.cat(group)).square().mean() for group in groups if group)
            out.backward()
            method.optimizer.zero_grad(set_to_none=True)

        def train(batch: Any, i: int) -> None:
            loop.tracker.step(i, loop._train_step(batch, Progress(0, i, 10_000, i)), {"lr": 0.0, "t": 0.0})

        works: dict[str, Callable[[int], None]] = {
            "bare": bare,
            "step": lambda i: train(ready, i),
            "run": lambda i: train(next(loader), i),
        }
        best = dict.fromkeys(works, 0.0)
        for _ in range(args.rounds):
            for name, work in works.items():
                best[name] = max(best[name], rate(work, args.steps, args.batch_size, device))
        print(f"{args.method}, {args.model}, {args.size[0]}x{args.size[1]}, batch {args.batch_size}, {device}")
        print(f"{'':6}{'images/s':>10}{'of bare':>9}{'of step':>9}")
        for name, value in best.items():
            print(f"{name:6}{value:10.1f}{value / best['bare']:9.2f}{value / best['step']:9.2f}")


if __name__ == "__main__":
    main()

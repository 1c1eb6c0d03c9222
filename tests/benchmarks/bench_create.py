"""Time of `reidzoo.create_model` beside bare `timm.create_model` of the timm model that it is built on.

    python tests/benchmarks/bench_create.py                  # the smallest of each family
    python tests/benchmarks/bench_create.py resnet152_ibn vit_base --rounds 9

Both build the network with random weights and no classifier, the transformers for 256x128. Each round builds both in
turn; the best of the rounds is shown, in processor time. The ratio should stay below 1.3.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable

import timm
import torch
from torch import nn

import reidzoo


def smallest() -> list[str]:
    """Return the smallest backbone of each family of ReIDZoo."""
    specs = sorted(map(reidzoo.model_info, reidzoo.list_models(tag="reidzoo")), key=lambda spec: -spec.params_m)
    return sorted({spec.family: spec.name for spec in specs}.values())


def bare(name: str) -> nn.Module:
    """Build timm's model."""
    spec = reidzoo.model_info(name)
    sized = {"img_size": spec.input_size[1:]} if "transformer" in spec.tags else {}
    return timm.create_model(spec.timm_name, num_classes=0, **sized)


def seconds(build: Callable[[str], nn.Module], name: str) -> float:
    """Return the processor time of one build."""
    gc.collect()
    start = time.process_time()
    build(name)
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=smallest())
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'model':20}{'timm (ms)':>12}{'reidzoo (ms)':>14}{'ratio':>8}")
    ratios = []
    for name in args.names:
        bare(name), reidzoo.create_model(name)  # imports and caches
        times = [(seconds(bare, name), seconds(reidzoo.create_model, name)) for _ in range(args.rounds)]
        theirs, ours = (min(column) for column in zip(*times, strict=True))
        ratios.append(ours / theirs)
        print(f"{name:20}{1000 * theirs:12.1f}{1000 * ours:14.1f}{ratios[-1]:8.2f}")
    print(f"largest ratio: {max(ratios):.2f}")


if __name__ == "__main__":
    main()

"""What a CION step of each backbone needs to keep in GPU memory, and the batch size that follows.

Nothing is allocated: networks and views are on torch's ``meta`` device, and the tensors that autograd would keep
under half-precision autocast are counted. One batch is known to fit on the release's 8 V100 with 32 GB: ResNet50-IBN
with 120 images per GPU and 8 local views. A recipe's batch is the largest multiple of 24 (the lcm of K = 2, 4, 6, 8) up
to 120 that needs no more than that; where 24 images would, local views are left out, two at a time.

    python tests/benchmarks/bench_pretrain_memory.py [MODEL ...] [--csv]
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import reidzoo
from reidzoo.models import DINOHead

SIZE, LOCAL = (256, 128), (128, 64)
STATE = 4 + 4 + 8 + 4 + 4  # bytes per parameter: weight, gradient, Adam's moments, teacher, DDP's bucket
HALF = {"linear", "conv2d", "conv1d", "matmul", "bmm", "scaled_dot_product_attention", "__matmul__"}
FULL = {"layer_norm", "group_norm", "softmax", "log_softmax"}


class Autocast(TorchFunctionMode):
    """CUDA's autocast rules, for tensors that are nowhere."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in HALF or name in FULL:
            dtype = torch.float16 if name in HALF else torch.float32
            args = [a.to(dtype) if isinstance(a, Tensor) and a.is_floating_point() else a for a in args]
            kwargs = {
                k: v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v
                for k, v in (kwargs or {}).items()
            }
        return func(*args, **(kwargs or {}))


def kept_bytes(network: nn.Module, images: int, size: tuple[int, int]) -> int:
    """Bytes that autograd keeps for the backward of one forward pass, weights apart."""
    weights = {t.untyped_storage()._cdata for t in [*network.parameters(), *network.buffers()]}
    kept: dict[int, tuple[Tensor, int]] = {}  # holding the tensors keeps their storages' addresses apart

    def note(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = t, storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t), Autocast():
        network(torch.empty(images, 3, *size, device="meta"))
    return sum(n for _, n in kept.values())


def per_image(network: nn.Module, size: tuple[int, int]) -> float:
    """Bytes per image: what a batch of 4 needs more than one of 2 does, so that copies of weights do not count."""
    return (kept_bytes(network, 4, size) - kept_bytes(network, 2, size)) / 2


def measure(name: str) -> tuple[float, float, float]:
    """Return bytes of weights and optimiser, and per image of a pair of global views and of one local view."""
    with torch.device("meta"):
        network = reidzoo.create_model(name, img_size=SIZE)
        head = DINOHead(network.embed_dim)
    network.train()
    parameters = sum(p.numel() for m in (network, head) for p in m.parameters())
    return STATE * parameters, 2 * per_image(network, SIZE), per_image(network, LOCAL)


def fit(state: float, two: float, local: float, budget: float) -> tuple[int, int, float]:
    """Return the images per GPU, the local views and the bytes of the largest step within `budget`."""
    for crops in (8, 6, 4, 2):
        for batch in (120, 96, 72, 48, 24):
            need = state + batch * (two + crops * local)
            if need <= budget:
                return batch, crops, need
    raise SystemExit("does not fit")


def main(words: list[str]) -> None:
    names = [w for w in words if not w.startswith("--")] or reidzoo.list_models(tag="reidzoo")
    state, two, local = measure("resnet50_ibn")
    budget = state + 120 * (two + 8 * local)
    rows = []
    for name in names:
        batch, crops, need = fit(*measure(name), budget)
        rows.append((name, batch, crops, f"{need / 2**30:.1f}"))
    if "--csv" in words:
        print("model,batch_size,local_crops,gib", *(",".join(map(str, r)) for r in rows), sep="\n")
        return
    print(f"limit: {budget / 2**30:.1f} GiB, what ResNet50-IBN keeps with 120 images and 8 local views\n")
    print(f"{'model':<20}{'images':>8}{'local views':>13}{'GiB kept':>10}")
    for name, batch, crops, gib in rows:
        print(f"{name:<20}{batch:>8}{crops:>13}{gib:>10}")


if __name__ == "__main__":
    main(sys.argv[1:])

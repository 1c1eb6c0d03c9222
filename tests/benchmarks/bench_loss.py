"""Time and memory of the identity-guided loss, forward and backward, beside the published formula as it is printed.

    python tests/benchmarks/bench_loss.py                    # K = 8, 64 images, 10 views, 65,336 outputs
    python tests/benchmarks/bench_loss.py --outputs 8192     # "published" needs an eighth of its memory

"published" is a plain implementation: for every pair of views the cross-entropy of each image with itself, and for
every ordered pair of the K places in a group the softmax and log-softmax of these rows again; autograd does the rest.
"logits" is `IdentityDistillationLoss` on the same logits. "linear, logits" and "fused" start at the last layer's input,
256 wide, with the layer itself: the first holds all logits, the second never does. "linear" is the layer alone, forward
and backward: the least that any loss behind it costs.

Each round runs every one of them in a process of its own, twice; the best time is shown. Seconds are the wall's, CPU
seconds those of all threads. Memory is the peak above the inputs (Linux: resident memory). Where "published" needs more
than is available, both are compared at the widest power of two that fits.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing as mp
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from reidzoo.training.losses import IdentityDistillationLoss

DIM, LOGITS, FACTORS = 256, ("published", "logits"), ("linear", "linear, logits", "fused")
# GB of "published" per output, image and view, pair of views and K, measured.
GB_PER_TERM = 2e-8


def published(student: Tensor, teacher: Tensor, views: int, k: int) -> Tensor:
    """The released loss, term by term (spec A.5); the centre is zero."""
    total = student.new_zeros(())
    for u, v in itertools.product(range(2), range(views)):
        if u == v:
            continue
        t, s = teacher.chunk(2)[u] / 0.04, student.chunk(views)[v] / 0.1
        loss = torch.sum(-F.softmax(t, dim=-1) * F.log_softmax(s, dim=-1), dim=-1).mean()
        for i, j in itertools.permutations(range(k), 2):
            loss = loss + torch.sum(-F.softmax(t[i::k], dim=-1) * F.log_softmax(s[j::k], dim=-1), dim=-1).mean()
        total = total + loss / (k * (k - 1) + 1)
    return total / (2 * views - 2)


def _child(name: str, images: int, views: int, k: int, outputs: int, variant: str, threads: int, out: mp.Queue) -> None:
    torch.set_num_threads(threads)
    g = torch.Generator().manual_seed(0)
    x = F.normalize(torch.randn(views * images, DIM, generator=g), dim=-1)
    weight = F.normalize(torch.randn(outputs, DIM, generator=g), dim=-1).requires_grad_()
    teacher = F.normalize(torch.randn(2 * images, DIM, generator=g), dim=-1) @ weight.detach().T
    criterion = IdentityDistillationLoss(outputs, views, variant=variant)
    options = {"num_instances": k, "update_center": False}
    student = (x @ weight.detach().T).requires_grad_() if name in LOGITS else x.requires_grad_()
    criterion(
        x.new_ones(2 * views, outputs).requires_grad_(), teacher[:4], num_instances=1, update_center=False
    ).backward()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before, best = _status("VmRSS"), (float("inf"),) * 2
    for _ in range(2):
        student.grad = weight.grad = None
        start, cpu = time.perf_counter(), time.process_time()
        if name == "published":
            loss = published(student, teacher, views, k)
        elif name == "logits":
            loss = criterion(student, teacher, **options)
        elif name == "fused":
            loss = criterion.fused(student, weight, teacher, **options)
        elif name == "linear, logits":
            loss = criterion(F.linear(student, weight), teacher, **options)
        else:
            loss = F.linear(student, weight).mean()
        loss.backward()
        best = tuple(map(min, best, (time.perf_counter() - start, time.process_time() - cpu)))
    assert student.grad is not None
    out.put((*best, (_status("VmHWM") - before) / 2**20, float(loss.detach()), float(student.grad.norm())))


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def _available_gb() -> float:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) / 2**20


def measure(names: tuple[str, ...], outputs: int, args: argparse.Namespace) -> dict[str, tuple[float, ...]]:
    """Print a table of `names` at a width and return each one's figures."""
    context, best = mp.get_context("spawn"), {}
    for _, name in itertools.product(range(args.rounds), names):
        out = context.Queue()
        job = (name, args.images, args.views, args.k, outputs, args.variant, args.threads, out)
        process = context.Process(target=_child, args=job)
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"{name} ended with {process.exitcode}")
        best[name] = tuple(map(min, zip(best.get(name, (1e9,) * 5), out.get(), strict=True)))
    print(f"\n{args.images} images, K = {args.k}, {args.views} views, {outputs} outputs, {args.threads} threads")
    print(f"{'':16}{'seconds':>10}{'CPU s':>10}{'peak GB':>10}{'loss':>14}{'|gradient|':>14}")
    for name, (seconds, cpu, memory, loss, norm) in best.items():
        print(f"{name:16}{seconds:10.3f}{cpu:10.3f}{memory:10.3f}{loss:14.6f}{norm:14.4e}")
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outputs", type=int, default=65336)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--views", type=int, default=10)
    parser.add_argument("--k", type=int, default=8)
    parser.add_argument("--variant", choices=("release", "paper"), default="release", help="of ours")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory", type=float, default=0.8 * _available_gb(), help='GB that "published" may take')
    args = parser.parse_args()
    per_output = GB_PER_TERM * args.images * (2 * args.views - 2) * args.k
    outputs = args.outputs
    if per_output * outputs > args.memory:
        outputs = 2 ** int(args.memory / per_output).bit_length() // 2
        print(
            f"published would need {per_output * args.outputs:.0f} GB at {args.outputs} outputs: compared at {outputs}"
        )
        measure(LOGITS[1:], args.outputs, args)
    best = measure(LOGITS, outputs, args)
    ratios = [a / b for a, b in zip(*(best[name][:3] for name in LOGITS), strict=True)]
    print("published / logits: {:.1f} in time, {:.1f} in CPU time, {:.1f} in memory".format(*ratios))
    best = measure(FACTORS, args.outputs, args)
    ratios = [a / b for a, b in zip(*(best[name][:3] for name in FACTORS[1:]), strict=True)]
    print("linear, logits / fused: {:.2f} in time, {:.2f} in CPU time, {:.1f} in memory".format(*ratios))


if __name__ == "__main__":
    main()

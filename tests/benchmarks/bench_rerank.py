"""Time and memory of `rerank` beside the dense NumPy formulation and the bare matrix product, on the same arrays.

    python tests/benchmarks/bench_rerank.py                          # Market-1501's size, 768 dimensions
    python tests/benchmarks/bench_rerank.py --size msmt17 --dim 256  # 93,820 images

"bare" multiplies all images with all images in tiles and throws the result away. "dense" is the common formulation:
N x N arrays of distances, ranks and encodings (4.6 GB at Market-1501's size). "reidzoo" returns the (Q, G) array;
"streamed" makes the same distances block by block and throws each away, as `compute_metrics(rerank=...)` does.

Features are drawn: one centre per identity plus noise. Each round runs all of them in turn; the best of the rounds is
shown. Memory is the peak above the inputs, results included (Linux). CPU seconds are those of all threads.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from reidzoo.eval import Rerank, rerank

SIZES = {"small": (600, 3000, 150), "market1501": (3368, 15913, 751), "msmt17": (11659, 82161, 3060)}


def draw(queries: int, gallery: int, ids: int, dim: int, noise: float) -> list[np.ndarray]:
    """Return query and gallery features of length 1, and the identities of both."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((ids, dim), dtype=np.float32)
    features, labels = [], [rng.integers(0, ids, n) for n in (queries, gallery)]
    for label in labels:
        x = rng.standard_normal((len(label), dim), dtype=np.float32)
        x *= noise
        x += centres[label]
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        features.append(x)
    return [*features, *labels]


def bare(qf: np.ndarray, gf: np.ndarray) -> None:
    """Multiply all with all, in tiles."""
    x = torch.from_numpy(np.concatenate([qf, gf]))
    for rows in x.split(4096):
        for columns in x.split(4096):
            torch.mm(rows, columns.T)


def reciprocal(rank: np.ndarray, i: int, k: int) -> np.ndarray:
    """Return the k-reciprocal neighbours of image `i`."""
    forward = rank[i, : k + 1]
    return forward[(rank[forward, : k + 1] == i).any(1)]


def dense(qf: np.ndarray, gf: np.ndarray, k1: int = 20, k2: int = 6, lam: float = 0.3) -> np.ndarray:
    """Return the re-ranked distances from N x N arrays."""
    x = np.concatenate([qf, gf])
    n, nq = len(x), len(qf)
    norm = np.square(x).sum(1)
    distance = x @ x.T
    distance *= -2
    distance += norm
    distance += norm[:, None]
    distance /= distance.max(1, keepdims=True)
    rank = np.empty((n, n), np.int32)
    for i in range(n):
        rank[i] = np.argsort(distance[i])
    encoding = np.zeros((n, n), np.float32)

    for i in range(n):
        mutual = expanded = reciprocal(rank, i, k1)
        for candidate in mutual:
            half = reciprocal(rank, candidate, int(np.around(k1 / 2)))
            if len(np.intersect1d(half, mutual)) > 2 / 3 * len(half):
                expanded = np.append(expanded, half)
        expanded = np.unique(expanded)
        weight = np.exp(-distance[i, expanded])
        encoding[i, expanded] = weight / weight.sum()
    distance = distance[:nq].copy()
    averaged = np.empty_like(encoding)
    for i in range(n):
        averaged[i] = encoding[rank[i, :k2]].mean(0)
    encoding = averaged
    del rank
    holders = [np.flatnonzero(encoding[:, i]) for i in range(n)]
    out = np.empty((nq, n), np.float32)
    for q in range(nq):
        shared = np.zeros(n, np.float32)
        for i in np.flatnonzero(encoding[q]):
            shared[holders[i]] += np.minimum(encoding[q, i], encoding[holders[i], i])
        out[q] = 1 - shared / (2 - shared)
    return ((1 - lam) * out + lam * distance)[:, nq:]


def streamed(qf: np.ndarray, gf: np.ndarray) -> None:
    """Make every distance, keep none."""
    distances = Rerank().distances(qf, gf)
    for start in range(0, len(qf), 128):
        distances.block(start, min(start + 128, len(qf)))


FUNCTIONS = {"bare": bare, "streamed": streamed, "reidzoo": rerank, "dense": dense}


def mean_ap(distances: np.ndarray, q_ids: np.ndarray, g_ids: np.ndarray) -> float:
    """Return mAP by sorting every row; all images count."""
    aps = []
    for row, pid in zip(distances, q_ids, strict=True):
        places = np.flatnonzero(g_ids[np.argsort(row, kind="stable")] == pid)
        if len(places):
            aps.append(np.mean((np.arange(len(places)) + 1) / (places + 1)))
    return float(np.mean(aps))


def measure(function: Callable[..., np.ndarray | None], arrays: list[np.ndarray]) -> tuple[float, float, float, object]:
    """Return seconds, CPU seconds, peak MB above the state before, and what the function returned."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status("VmRSS")
    start, cpu = time.perf_counter(), time.process_time()
    value = function(*arrays)
    seconds = time.perf_counter() - start, time.process_time() - cpu
    return *seconds, (_status("VmHWM") - before) / 1024, value


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="market1501")
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--noise", type=float, default=3.0, help="around the centres")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=FUNCTIONS, help="default: all, at msmt17's size bare and streamed")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    *features, q_ids, g_ids = draw(*SIZES[args.size], args.dim, args.noise)
    names = args.only or (["bare", "streamed"] if args.size == "msmt17" else FUNCTIONS)
    best: dict[str, tuple[float, float, float]] = {}
    results: dict[str, np.ndarray] = {}
    for _ in range(args.rounds):
        for name in names:
            *figures, value = measure(FUNCTIONS[name], features)
            best[name] = min(best.get(name, (np.inf,) * 3), tuple(figures))
            if value is not None:
                results[name] = value
    queries, gallery, _ = SIZES[args.size]
    print(f"{args.size} {queries} x {gallery}, {args.dim} dimensions, noise {args.noise}, {args.threads} threads")
    print(f"{'':10}{'seconds':>10}{'CPU s':>10}{'peak MB':>10}{'mAP %':>12}")
    for name, (seconds, cpu, memory) in best.items():
        score = f"{100 * mean_ap(results[name], q_ids, g_ids):.5f}" if name in results else ""
        print(f"{name:10}{seconds:10.1f}{cpu:10.1f}{memory:10.0f}{score:>12}")
    if {"dense", "reidzoo"} <= best.keys():
        print(f"dense / reidzoo: {best['dense'][0] / best['reidzoo'][0]:.1f} in time; largest difference of distances "
              f"{np.abs(results['dense'] - results['reidzoo']).max():.1e}")  # fmt: skip


if __name__ == "__main__":
    main()

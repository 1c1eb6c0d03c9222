"""Time and memory of `compute_metrics` beside the bare matrix product and the plain formulation, on the same arrays.

    python tests/benchmarks/bench_eval.py                         # Market-1501's size, 768 dimensions
    python tests/benchmarks/bench_eval.py --size msmt17 --dim 2048 --skip-plain

"bare" multiplies queries and gallery in blocks and throws the result away. "plain" is the common formulation: the whole
distance matrix, argsort of every row, a loop over the queries. Features are drawn: one centre per identity plus noise;
--noise 0 draws them without any identity, the worst case for the counting.

Each round times all of them in turn; the best of the rounds is shown. Memory is the peak above the inputs (Linux).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from reidzoo.eval import compute_metrics

SIZES = {"market1501": (3368, 15913, 751, 6), "msmt17": (11659, 82161, 3060, 15)}  # queries, gallery, ids, cameras


def draw(queries: int, gallery: int, ids: int, cams: int, dim: int, noise: float) -> list[np.ndarray]:
    """Return features, ids and cameras of query and gallery."""
    rng = np.random.default_rng(0)
    labels = [rng.integers(1, ids + 1, n) for n in (queries, gallery)]
    centres = rng.standard_normal((ids + 1, dim), dtype=np.float32) if noise else None
    features = []
    for label in labels:
        x = rng.standard_normal((len(label), dim), dtype=np.float32)
        if centres is not None:
            x *= noise
            x += centres[label]
        features.append(x)
    return [*features, *labels, *(rng.integers(0, cams, n) for n in (queries, gallery))]


def bare(qf: np.ndarray, gf: np.ndarray, *_: np.ndarray) -> None:
    """Multiply in blocks of the size that `compute_metrics` has room for."""
    q, g = torch.from_numpy(qf), torch.from_numpy(gf)
    buffer = torch.empty(512, min(len(g), 16384))
    for g0 in range(0, len(g), 16384):
        columns = g[g0 : g0 + 16384].T
        for q0 in range(0, len(q), 512):
            rows = q[q0 : q0 + 512]
            torch.mm(rows, columns, out=buffer.view(-1)[: len(rows) * columns.shape[1]].view(len(rows), -1))


def plain(qf, gf, q_ids, g_ids, q_cams, g_cams) -> float:
    """Return mAP from the full matrix, argsort and a loop."""
    q, g = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (qf, gf))
    order = np.argsort(1 - q @ g.T, axis=1)
    match = g_ids[order] == q_ids[:, None]
    aps = []
    for i in range(len(q)):
        keep = ~(match[i] & (g_cams[order[i]] == q_cams[i]))
        hits = match[i][keep].astype(np.int32)
        if hits.any():
            precision = hits.cumsum() / np.arange(1.0, len(hits) + 1)
            aps.append((precision * hits).sum() / hits.sum())
    return float(np.mean(aps))


def ours(*arrays: np.ndarray) -> float:
    """Return mAP from reidzoo."""
    return compute_metrics(*arrays).mAP


def measure(function: Callable[..., float | None], arrays: list[np.ndarray]) -> tuple[float, float, float | None]:
    """Return seconds, peak MB above the state before, and what the function returned."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status("VmRSS")
    start = time.perf_counter()
    value = function(*arrays)
    return time.perf_counter() - start, (_status("VmHWM") - before) / 1024, value


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="market1501")
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--noise", type=float, default=2.5, help="around the centres; 0: no identity in the features")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--skip-plain", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    arrays = draw(*SIZES[args.size], args.dim, args.noise)
    functions = {"bare": bare, "reidzoo": ours} | ({} if args.skip_plain else {"plain": plain})
    best: dict[str, tuple[float, float, float | None]] = {}
    for _ in range(args.rounds):
        for name, function in functions.items():
            seconds, memory, value = measure(function, arrays)
            best[name] = min(best.get(name, (np.inf, np.inf, None)), (seconds, memory, value), key=lambda r: r[0])
    q, g, _, _ = SIZES[args.size]
    print(f"{args.size} {q} x {g}, {args.dim} dimensions, noise {args.noise}, {args.threads} threads")
    print(f"{'':10}{'seconds':>10}{'x bare':>10}{'peak MB':>10}{'mAP %':>10}")
    for name, (seconds, memory, value) in best.items():
        score = "" if value is None else f"{100 * value:.3f}"
        print(f"{name:10}{seconds:10.2f}{seconds / best['bare'][0]:10.2f}{memory:10.0f}{score:>10}")


if __name__ == "__main__":
    main()

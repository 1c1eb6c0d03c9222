"""Time and memory of `compute_metrics` beside the bare matrix product and the plain formulation, on the same arrays.

    python tests/benchmarks/bench_eval.py                         # Market-1501's size, 768 dimensions
    python tests/benchmarks/bench_eval.py --size msmt17 --dim 2048 --skip-plain
    python tests/benchmarks/bench_eval.py --size million --dim 256 --skip-plain --rounds 1   # float16 memory maps

"bare" multiplies queries and gallery in blocks and throws the result away. "plain" is the common formulation: the whole
distance matrix, argsort of every row, a loop over the queries. Features are drawn: one centre per identity plus noise;
--noise 0 draws them without any identity, the worst case for the counting.

Each round times all of them in turn; the best of the rounds is shown. Processor seconds count both threads, and are the
ones to compare on a machine that does other work as well. Memory is the peak above the inputs (Linux; pages of memory
maps belong to the inputs).
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from reidzoo.eval import compute_metrics

SIZES = {  # queries, gallery, ids, cameras
    "market1501": (3368, 15913, 751, 6),
    "msmt17": (11659, 82161, 3060, 15),
    "million": (10_000, 1_000_000, 50_000, 20),
}
_PIECE = 16384  # rows drawn, or converted, at a time


def draw(
    queries: int, gallery: int, ids: int, cams: int, dim: int, noise: float, folder: Path | None = None
) -> list[np.ndarray]:
    """Return features, ids and cameras of query and gallery; with a folder, features are float16 memory maps there."""
    rng = np.random.default_rng(0)
    labels = [rng.integers(1, ids + 1, n) for n in (queries, gallery)]
    centres = rng.standard_normal((ids + 1, dim), dtype=np.float32) if noise else None
    features = []
    for side, label in enumerate(labels):
        shape = len(label), dim
        if folder is None:
            x = np.empty(shape, np.float32)
        else:
            x = np.lib.format.open_memmap(folder / f"{side}.npy", "w+", np.float16, shape)
        for start in range(0, len(x), _PIECE):
            piece = rng.standard_normal((min(_PIECE, len(x) - start), dim), dtype=np.float32)
            if centres is not None:
                piece = piece * noise + centres[label[start : start + _PIECE]]
            x[start : start + _PIECE] = piece
        features.append(x if folder is None else np.load(folder / f"{side}.npy", mmap_mode="r"))
    return [*features, *labels, *(rng.integers(0, cams, n) for n in (queries, gallery))]


def bare(qf: np.ndarray, gf: np.ndarray, *_: np.ndarray) -> None:
    """Multiply in blocks of the size that `compute_metrics` has room for."""
    q = torch.from_numpy(np.asarray(qf, np.float32))
    buffer = torch.empty(512, min(len(gf), _PIECE))
    for g0 in range(0, len(gf), _PIECE):
        columns = torch.from_numpy(np.asarray(gf[g0 : g0 + _PIECE], np.float32)).T
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


def measure(
    function: Callable[..., float | None], arrays: list[np.ndarray]
) -> tuple[float, float, float, float | None]:
    """Return seconds, processor seconds, peak MB above the state before, and what the function returned."""
    before, peak, done = _anonymous(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            peak[0] = max(peak[0], _anonymous() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    wall, processor = time.perf_counter(), time.process_time()
    value = function(*arrays)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    done.set()
    watcher.join()
    return wall, processor, peak[0], value


def _anonymous() -> float:
    """Memory of this process in MB, without the pages of files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024


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
    functions = {"bare": bare, "reidzoo": ours} | ({} if args.skip_plain else {"plain": plain})
    best: dict[str, tuple[float, float, float, float | None]] = {}
    with tempfile.TemporaryDirectory() as folder:
        arrays = draw(*SIZES[args.size], args.dim, args.noise, Path(folder) if args.size == "million" else None)
        for _ in range(args.rounds):
            for name, function in functions.items():
                new = measure(function, arrays)
                old = best.get(name, new)
                best[name] = (min(old[0], new[0]), min(old[1], new[1]), max(old[2], new[2]), new[3])
        del arrays
    q, g, _, _ = SIZES[args.size]
    print(f"{args.size} {q} x {g}, {args.dim} dimensions, noise {args.noise}, {args.threads} threads")
    print(f"{'':10}{'seconds':>10}{'x bare':>10}{'processor':>11}{'x bare':>10}{'peak MB':>10}{'mAP %':>10}")
    for name, (seconds, processor, memory, value) in best.items():
        score = "" if value is None else f"{100 * value:.3f}"
        ratios = seconds / best["bare"][0], processor / best["bare"][1]
        print(f"{name:10}{seconds:10.2f}{ratios[0]:10.2f}{processor:11.2f}{ratios[1]:10.2f}{memory:10.0f}{score:>10}")


if __name__ == "__main__":
    main()

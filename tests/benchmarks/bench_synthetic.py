"""How fast people are drawn, and how far a colour histogram finds them again.

python tests/benchmarks/bench_synthetic.py [--identities 60] [--seed 0] [--size 128x64] [--workers 1]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from reidzoo import compute_metrics, load_dataset
from reidzoo.data import write_synthetic

MIDDLE = (slice(16, 128), slice(18, 46))  # of a 128x64 image: mostly person, little background


def histograms(paths: Iterable[str], part: tuple[slice, ...] = ()) -> np.ndarray:
    """Square roots of 8 x 8 x 8-bin RGB histograms of the images at 128x64: their cosine compares distributions."""
    rows = []
    for path in paths:
        pixels = np.asarray(Image.open(path).resize((64, 128)))[part].reshape(-1, 3).astype(int) >> 5
        rows.append(np.bincount(pixels @ (64, 8, 1), minlength=512))
    return np.sqrt(np.array(rows, dtype=np.float32))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--identities", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", default="128x64")
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    height, width = map(int, args.size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        start, start_cpu = time.perf_counter(), time.process_time()
        root = write_synthetic(
            Path(folder) / "people",
            identities=args.identities,
            seed=args.seed,
            size=(height, width),
            workers=args.workers,
        )
        seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
        data = load_dataset(f"synthetic:{root}")
        images = len(data.train) + len(data.query) + len(data.gallery)
        print(f"{images} images in {seconds:.1f} s: {images / seconds:.0f} images/s with {args.workers} worker(s)")
        if args.workers == 1:  # on a busy machine the processor's time says more
            print(f"{images / cpu:.0f} images per second of processor time")
        q, g = data.query, data.gallery
        for name, part in (("whole image", ()), ("middle", MIDDLE)):
            features = histograms(q.path, part), histograms(g.path, part)
            result = compute_metrics(*features, q.pid, g.pid, q.camid, g.camid)
            print(f"colour histogram, {name}: mAP {100 * result.mAP:.1f} %, Rank-1 {100 * result.cmc[1]:.1f} %")


if __name__ == "__main__":
    main()

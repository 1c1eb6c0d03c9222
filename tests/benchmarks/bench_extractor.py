"""Time of `Extractor` beside the bare network on tensors that are ready, with the same batches.

    python tests/benchmarks/bench_extractor.py                          # ResNet-50, 2 threads
    python tests/benchmarks/bench_extractor.py --model vit_small --images 256 --device cuda --precision bf16

"bare" is ``model(batch)`` on normalised tensors of the network's input size, on its device; the results are fetched to
the CPU. "arrays" are uint8 crops of 160x64 pixels, "files" the same as JPEG, "boxes" the same places of a 1080p frame.
Each round times all of them in turn; the best times, and the medians of the rounds' ratios to "bare", are shown: of the
time on the clock and of the time on all cores together, which other jobs on the machine disturb less.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import reidzoo

HEIGHT, WIDTH = 160, 64  # of a crop


def crops_of(frame: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes (count, 4) in `frame` and the pixels in them."""
    rng = np.random.default_rng(0)
    left = rng.integers(0, frame.shape[1] - WIDTH, count)
    top = rng.integers(0, frame.shape[0] - HEIGHT, count)
    boxes = np.stack([left, top, left + WIDTH, top + HEIGHT], 1)
    return boxes, np.stack([frame[t:b, x0:x1] for x0, t, x1, b in boxes])


def bare(extract: reidzoo.Extractor, batches: list[torch.Tensor]) -> Callable[[], object]:
    """The network alone, with the extractor's device and precision."""
    embed = extract._embed

    @torch.inference_mode()
    def run() -> list[np.ndarray]:
        with torch.autocast(embed.device.type, embed.dtype, enabled=embed.dtype != torch.float32):
            return [f.float().cpu().numpy() for f in [embed.model(batch) for batch in batches]]

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = reidzoo.create_model(args.model)
    start = time.perf_counter()
    extract = reidzoo.Extractor(
        model, device=args.device, batch_size=args.batch_size, precision=args.precision, threads=args.threads
    )
    ready = time.perf_counter() - start
    frame = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), dtype=np.uint8)
    boxes, arrays = crops_of(frame, args.images)
    transform = reidzoo.create_transform(model)
    tensors = torch.stack([transform(Image.fromarray(a)) for a in arrays]).to(args.device)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, f"{i}.jpg") for i in range(args.images)]
        for path, array in zip(files, arrays, strict=True):
            Image.fromarray(array).save(path, quality=90)
        jobs = {
            "bare": bare(extract, list(tensors.split(args.batch_size))),
            "arrays": lambda: extract(arrays),
            "files": lambda: extract(files),
            "boxes": lambda: extract(frame, boxes),
        }
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in jobs}
        for _ in range(args.rounds + 1):
            for name, job in jobs.items():
                clock, cores = time.perf_counter(), time.process_time()
                job()
                times[name].append((time.perf_counter() - clock, time.process_time() - cores))
    print(f"{args.model}, {args.images} images in batches of {args.batch_size}, {args.device}, {args.precision}, "
          f"{args.threads} threads; the extractor was ready after {ready:.2f} s")  # fmt: skip
    print(f"{'':8}{'ms/image':>10}{'x bare':>8}{'cores ms':>10}{'x bare':>8}")
    for name, rounds in times.items():
        shown = ""
        for i in (0, 1):
            best = min(seconds[i] for seconds in rounds[1:])
            ratio = statistics.median(s[i] / b[i] for s, b in zip(rounds[1:], times["bare"][1:], strict=True))
            shown += f"{1000 * best / args.images:10.2f}{ratio:8.3f}"
        print(f"{name:8}{shown}")


if __name__ == "__main__":
    main()

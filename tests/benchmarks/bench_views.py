"""Images per second and core of CION's views (two global, eight local), beside the composition that its release uses.

    python tests/benchmarks/bench_views.py                  # on one core
    python tests/benchmarks/bench_views.py --device cuda    # and what is left to a GPU, where there is one

"reference" is torchvision's transforms on PIL images, as in DINO and CION. "ours" is `MultiCrop`; "ours, deferred" is
its part on the CPU when colours, blur and normalisation are left to the device, and "finish" that part on the device.
All of them start from a JPEG file's bytes, in one process with one thread, in turns; the best of the rounds is shown.
"""

from __future__ import annotations

import argparse
import io
import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torchvision import transforms as T

from reidzoo.data.transforms import IMAGENET_MEAN, IMAGENET_STD, MultiCrop


class Blur:
    """Pillow's blur with a random strength, sometimes."""

    def __init__(self, p: float) -> None:
        self.p = p

    def __call__(self, image: Image.Image) -> Image.Image:
        if random.random() >= self.p:
            return image
        return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))


def reference() -> Callable[[Image.Image], list[Any]]:
    """The published composition."""

    def view(size: tuple[int, int], scale: tuple[float, float], blur: float, solarize: float) -> Any:
        return T.Compose(
            [
                T.RandomResizedCrop(size, scale, ratio=(0.4, 0.6), interpolation=T.InterpolationMode.BICUBIC),
                T.RandomHorizontalFlip(),
                T.RandomApply([T.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
                T.RandomGrayscale(0.2),
                Blur(blur),
                T.RandomApply([ImageOps.solarize], p=solarize),
                T.ToTensor(),
                T.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            ]
        )

    first, second = view((256, 128), (0.8, 1), 1.0, 0.0), view((256, 128), (0.8, 1), 0.1, 0.2)
    local = view((128, 64), (0.05, 0.8), 0.5, 0.0)
    return lambda image: [first(image), second(image), *(local(image) for _ in range(8))]


def jpegs(count: int, size: tuple[int, int]) -> list[bytes]:
    """Smooth random pictures, as files."""
    rng = np.random.default_rng(0)
    files = []
    for _ in range(count):
        small = Image.fromarray(rng.integers(0, 256, (16, 8, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        small.resize(size[::-1], Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for size in ((128, 64), (256, 128), (384, 192)):
        files = jpegs(args.images, size)
        ours, deferred = MultiCrop(), MultiCrop(deferred=True)
        tasks: dict[str, Callable[[Image.Image], Any]] = {
            "reference": reference(),
            "ours": lambda image, t=ours: t(image, np.random.default_rng(0)),
            "ours, deferred": lambda image, t=deferred: t(image, np.random.default_rng(0)),
        }
        best = dict.fromkeys(tasks, float("inf"))
        for _ in range(args.rounds):
            for name, task in tasks.items():
                start = time.perf_counter()
                for file in files:
                    task(Image.open(io.BytesIO(file)).convert("RGB"))
                best[name] = min(best[name], time.perf_counter() - start)
        rates = {name: args.images / seconds for name, seconds in best.items()}
        print(f"images of {size[0]}x{size[1]}")
        for name, rate in rates.items():
            print(f"  {name:16} {rate:7.0f} images/s/core, {rate / rates['reference']:.1f} x the reference")
        rows = [deferred(Image.open(io.BytesIO(file)), np.random.default_rng(i)) for i, file in enumerate(files)]
        batch = [torch.stack(column).to(args.device) for column in zip(*rows, strict=True)]
        seconds = float("inf")
        for _ in range(args.rounds):
            synchronize(args.device)
            start = time.perf_counter()
            deferred.finish(batch)
            synchronize(args.device)
            seconds = min(seconds, time.perf_counter() - start)
        print(f"  {'finish':16} {args.images / seconds:7.0f} images/s on {args.device}")


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device != "cpu":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()

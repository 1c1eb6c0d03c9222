"""The operations on pixels that the transforms are made of: fast, on small float tensors, each with its definition."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

Size = tuple[int, int]  # (height, width)
Range = tuple[float, float]


def to_pixels(image: Image.Image) -> Tensor:
    """(3, H, W) uint8 view on the image's pixels, channels last in memory, which resampling is fastest on."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def resize(pixels: Tensor, size: Size, mode: Literal["bicubic", "bilinear"]) -> Tensor:
    """Resample (3, H, W) uint8 to `size` with Pillow's anti-aliasing; within 2 of 255 levels of its result."""
    return F.interpolate(pixels[None], size, mode=mode, antialias=True)[0]


def crop_box(
    height: int, width: int, scale: Range, ratio: Range, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draw a crop as torchvision's RandomResizedCrop does.

    Ten times: an area uniform in `scale` times the image's, an aspect (width / height) log-uniform in `ratio`; the
    first that fits is placed uniformly. If none fits: the largest central crop with an aspect in `ratio`.

    Returns:
        top, left, height, width in pixels.
    """
    share = rng.uniform(*scale, 10)
    aspect = np.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1]), 10))
    ws = np.rint(np.sqrt(height * width * share * aspect)).astype(int)
    hs = np.rint(np.sqrt(height * width * share / aspect)).astype(int)
    fits = (ws > 0) & (ws <= width) & (hs > 0) & (hs <= height)
    if fits.any():
        h, w = int(hs[fits.argmax()]), int(ws[fits.argmax()])
        return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    h, w = height, width
    if width / height < ratio[0]:
        h = max(1, round(width / ratio[0]))
    elif width / height > ratio[1]:
        w = max(1, round(height * ratio[1]))
    return (height - h) // 2, (width - w) // 2, h, w


class Jitter(NamedTuple):
    """How the colours of an image change."""

    factors: tuple[float, float, float]  # of brightness, contrast and saturation
    shift: float  # of the hue, in turns of the colour circle
    order: tuple[int, ...]  # of the four steps: brightness 0, contrast 1, saturation 2, hue 3


def draw_jitter(
    rng: np.random.Generator, *, brightness: float, contrast: float, saturation: float, hue: float
) -> Jitter:
    """Draw what torchvision's ColorJitter draws.

    Args:
        rng: source of order and strengths.
        brightness: the factor is uniform in 1 - brightness .. 1 + brightness; likewise `contrast` and `saturation`.
        contrast: see above.
        saturation: see above.
        hue: the shift is uniform in -hue .. hue turns of the colour circle.
    """
    first, second, third = (rng.uniform(1 - strength, 1 + strength) for strength in (brightness, contrast, saturation))
    return Jitter((first, second, third), rng.uniform(-hue, hue), tuple(rng.permutation(4).tolist()))


def color_jitter(x: Tensor, jitter: Jitter) -> Tensor:
    """Change brightness, contrast, saturation and hue, as torchvision's ColorJitter does.

    Args:
        x: (3, H, W) float32 in [0, 255]; may be overwritten.
        jitter: strengths and order.

    Returns:
        (3, H, W) float32 in [0, 255], clipped after each of the four steps.
    """
    for step in jitter.order:
        if step == 3:
            x = adjust_hue(x, jitter.shift)
            continue
        factor = jitter.factors[step]
        x.mul_(factor)
        if step == 1:  # blend with the mean grey; summed by NumPy, whose order does not depend on threads
            x.add_((1 - factor) / factor * float(luma(x).numpy().mean()))
        elif step == 2:  # blend with each pixel's grey
            x.add_(luma(x), alpha=(1 - factor) / factor)
        if factor > 1:
            x.clamp_(0, 255)
    return x


def adjust_hue(x: Tensor, shift: float) -> Tensor:
    """Turn the hue of every pixel by `shift` turns, keeping the maximum and minimum of its channels (HSV).

    On its way round the colour circle a channel c stays at the pixel's maximum M, falls to the minimum m, stays and
    rises, as a trapezoid. With n and p the next and the previous channel (R, G, B, R, ...), a turn by d sixths of the
    circle, 0 <= d <= 1, gives  m + clip(c - n + (1 - 2d) (M - p) + d (M - m), 0, M - m):  no conversion to HSV and no
    division. Turning the other way swaps n and p.

    Args:
        x: (3, H, W) float.
        shift: in turns, at most 1/6 in size.

    Returns:
        (3, H, W), a new tensor.
    """
    d = abs(shift) * 6
    high, low = torch.maximum(torch.maximum(x[0], x[1]), x[2]), torch.minimum(torch.minimum(x[0], x[1]), x[2])
    chroma = high - low
    ring = torch.cat([x, x[:2]])
    after, before = (ring[1:4], ring[2:5]) if shift >= 0 else (ring[2:5], ring[1:4])
    out = x - after
    out.sub_(before, alpha=1 - 2 * d)
    out.add_(chroma.mul(d).add_(high, alpha=1 - 2 * d))
    return torch.minimum(out.clamp_(min=0), chroma, out=out).add_(low)


def gaussian_blur(x: Tensor, sigma: float) -> Tensor:
    """Blur with the kernel of Pillow's GaussianBlur; edges are continued outwards.

    The kernel is an extended box, convolved with itself twice, of exactly the variance sigma**2 (Gwosdek et al.,
    "Theoretical foundations of Gaussian convolution by extended box filtering", SSVM 2011).

    Args:
        x: (C, H, W) float.
        sigma: standard deviation in pixels.
    """
    kernel = blur_kernel(sigma)
    r = len(kernel) // 2
    height, width = x.shape[-2:]
    padded = F.pad(x[None], (r, r, r, r), mode="replicate")[0]
    rows = padded[:, :height] * kernel[0]
    for i, weight in enumerate(kernel[1:], start=1):
        rows.add_(padded[:, i : i + height], alpha=weight)
    out = rows[:, :, :width] * kernel[0]
    for i, weight in enumerate(kernel[1:], start=1):
        out.add_(rows[:, :, i : i + width], alpha=weight)
    return out


def blur_kernel(sigma: float) -> list[float]:
    """The weights of `gaussian_blur`, symmetric and of odd number."""
    variance = sigma**2 / 3  # of each of the three boxes
    whole = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
    edge = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    box = np.array([edge, *[1.0] * (2 * whole + 1), edge]) / (2 * (whole + edge) + 1)
    kernel: list[float] = np.convolve(np.convolve(box, box), box).tolist()
    return kernel


def random_erasing(x: Tensor, rng: np.random.Generator, area: Range = (0.02, 1 / 3), aspect: float = 0.3) -> Tensor:
    """Fill one rectangle with standard normal noise, per pixel and channel, as timm's RandomErasing (mode "pixel").

    Args:
        x: (3, H, W) float, normalised; overwritten.
        rng: source of rectangle and noise.
        area: range of the rectangle's share of the image.
        aspect: its height / width is log-uniform in `aspect` .. 1 / `aspect`.

    Returns:
        `x`, unchanged if ten rectangles in a row were not smaller than the image.
    """
    channels, height, width = x.shape
    for _ in range(10):
        size = rng.uniform(*area) * height * width
        ratio = math.exp(rng.uniform(math.log(aspect), -math.log(aspect)))
        h, w = round(math.sqrt(size * ratio)), round(math.sqrt(size / ratio))
        if h < height and w < width:
            top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            noise = rng.standard_normal((channels, h, w), dtype=np.float32)
            x[:, top : top + h, left : left + w] = torch.from_numpy(noise)
            break
    return x


def constant_erasing(x: Tensor, rng: np.random.Generator, fill: Tensor) -> Tensor:
    """Fill one rectangle with a colour (Zhong et al., "Random Erasing Data Augmentation", AAAI 2020, algorithm 1).

    The rectangle's share of the image is uniform in 0.02 .. 0.4, its height / width uniform in 0.3 .. 1 / 0.3.

    Args:
        x: (3, H, W) float; overwritten.
        rng: source of the rectangle.
        fill: (3, 1, 1), the colour.

    Returns:
        `x`, unchanged if a hundred rectangles in a row were not smaller than the image.
    """
    _, height, width = x.shape
    for _ in range(100):
        size, ratio = rng.uniform(0.02, 0.4) * height * width, rng.uniform(0.3, 1 / 0.3)
        h, w = round(math.sqrt(size * ratio)), round(math.sqrt(size / ratio))
        if h < height and w < width:
            top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            x[:, top : top + h, left : left + w] = fill
            break
    return x


def luma(x: Tensor) -> Tensor:
    """Grey of (3, H, W), as (1, H, W); ITU-R 601-2 luma, as Pillow's."""
    return x[:1].mul(0.299).add_(x[1:2], alpha=0.587).add_(x[2:3], alpha=0.114)

"""From a PIL image to the tensors that a network is trained or tested on.

Every transform is a callable ``(image, rng=None)`` and takes its randomness from the NumPy generator `rng` alone;
without one it makes a generator from torch's random state. Images are resampled as 8-bit tensors (the arithmetic of
Pillow's `resize`, vectorised); all that follows happens in float32, without rounding in between, on the small view.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from reidzoo.data import _batch_ops
from reidzoo.data._pixel_ops import (
    Jitter,
    Range,
    Size,
    blur_kernel,
    color_jitter,
    constant_erasing,
    crop_box,
    draw_jitter,
    gaussian_blur,
    luma,
    random_erasing,
    resize,
    to_pixels,
)
from reidzoo.errors import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# width / height of the crops, by global size; as in CION and SOLIDER
_RATIOS: dict[Size, Range] = {(224, 224): (3 / 4, 4 / 3), (256, 128): (0.4, 0.6), (384, 128): (0.25, 0.4)}


class _View(NamedTuple):
    """How one kind of view is made."""

    size: Size
    scale: Range
    blur: float  # probability
    solarize: float  # probability


class _Draw(NamedTuple):
    """What happens to one view of one image."""

    box: tuple[int, int, int, int]  # top, left, height, width
    flip: bool
    jitter: Jitter | None
    grey: bool
    sigma: float  # of the blur, 0 for none
    solarize: bool

    def row(self) -> list[float]:
        """The colour operations as the numbers that `MultiCrop.finish` wants."""
        jitter = self.jitter or Jitter((1.0, 1.0, 1.0), 0.0, (0, 1, 2, 3))
        kernel = blur_kernel(self.sigma) if self.sigma else [1.0]
        half = kernel[len(kernel) // 2 :]
        half += [0.0] * (_batch_ops.TAPS - len(half))
        return [*jitter.factors, jitter.shift, *jitter.order, self.grey, self.solarize, *half]


class MultiCrop:
    """Two global and several local views of an image, as in CION (Zuo et al., NeurIPS 2024), which follows DINO.

    Each view: random resized crop (bicubic), horizontal flip (p 0.5), colour jitter of brightness 0.4, contrast 0.4,
    saturation 0.2 and hue 0.1 in random order (p 0.8), grey (p 0.2), Gaussian blur of sigma 0.1 to 2.0 pixels (p 1.0 in
    the first global view, 0.1 in the second, 0.5 in local ones), solarisation above 128 (p 0.2, in the second global
    view only), normalisation. The distributions are those of the torchvision transforms on PIL images.

    With `deferred`, everything behind the flip is left to `finish`, which does it for a whole batch on its device.

    Args:
        global_size: (height, width) of the global views.
        local_size: (height, width) of the local views.
        local_crops: number of local views, at least 0.
        mean: of each channel, in [0, 1].
        std: of each channel, in [0, 1].
        global_scale: range of a global crop's share of the image's area.
        local_scale: range of a local crop's share of the image's area.
        ratio: range of width / height of all crops. None: the published one for global sizes 224x224, 256x128 and
            384x128; 0.8 to 1.2 times the global views' ratio for others.
        deferred: leave colours, blur and normalisation to `finish`.

    Raises:
        ConfigError: A size or a range makes no sense.
    """

    def __init__(
        self,
        global_size: Sequence[int] = (256, 128),
        local_size: Sequence[int] = (128, 64),
        local_crops: int = 8,
        *,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        global_scale: Range = (0.8, 1.0),
        local_scale: Range = (0.05, 0.8),
        ratio: Range | None = None,
        deferred: bool = False,
    ) -> None:
        self.deferred = deferred
        large, small = _size("global_size", global_size), _size("local_size", local_size)
        aspect = large[1] / large[0]
        self.ratio = ratio or _RATIOS.get(large, (0.8 * aspect, 1.2 * aspect))
        for name, (low, high) in (("global_scale", global_scale), ("local_scale", local_scale), ("ratio", self.ratio)):
            if not 0 < low <= high or (name != "ratio" and high > 1):
                limit = "" if name == "ratio" else " <= 1"
                raise ConfigError(f"{name} is ({low}, {high}); expected 0 < lower <= upper{limit}.")
        if local_crops < 0:
            raise ConfigError(f"local_crops is {local_crops}; expected 0 or more.")
        self.normalize = _Normalize(mean, std)
        self.views = (
            _View(large, global_scale, blur=1.0, solarize=0.0),
            _View(large, global_scale, blur=0.1, solarize=0.2),
            *(_View(small, local_scale, blur=0.5, solarize=0.0) for _ in range(local_crops)),
        )

    def __call__(self, image: Image.Image, rng: np.random.Generator | None = None) -> list[Tensor]:
        """Return the views [g1, g2, l1, ...], each (3, height, width) float32, normalised.

        With `deferred`: the same views as uint8 pixels, and behind them the draws (V, 17) that `finish` takes.
        """
        pixels, rng = to_pixels(image), _generator(rng)
        draws = [self._draw(view, pixels.shape[1], pixels.shape[2], rng) for view in self.views]
        crops = [_cut(pixels, view.size, draw) for view, draw in zip(self.views, draws, strict=True)]
        if self.deferred:
            return [*(crop.contiguous() for crop in crops), torch.tensor([draw.row() for draw in draws])]
        return [self._color(crop, draw) for crop, draw in zip(crops, draws, strict=True)]

    def finish(self, views: Sequence[Tensor]) -> list[Tensor]:
        """Make the views of a batch that was loaded with `deferred`, on the device that it is on.

        Args:
            views: per view (B, 3, height, width) uint8, and behind them the draws (B, V, 17).

        Returns:
            What the transform gives without `deferred`: per view (B, 3, height, width) float32.
        """
        *crops, draws = views
        return [self._color_batch(crop.float(), draws[:, i]) for i, crop in enumerate(crops)]

    def _draw(self, view: _View, height: int, width: int, rng: np.random.Generator) -> _Draw:
        return _Draw(
            box=crop_box(height, width, view.scale, self.ratio, rng),
            flip=rng.random() < 0.5,
            jitter=draw_jitter(rng, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
            if rng.random() < 0.8
            else None,
            grey=rng.random() < 0.2,
            sigma=rng.uniform(0.1, 2.0) if rng.random() < view.blur else 0.0,
            solarize=rng.random() < view.solarize,
        )

    def _color(self, crop: Tensor, draw: _Draw) -> Tensor:
        x = crop.to(torch.float32, memory_format=torch.contiguous_format)
        if draw.jitter:
            x = color_jitter(x, draw.jitter)
        if draw.grey:
            x = luma(x).expand(3, -1, -1).contiguous()
        if draw.sigma:
            x = gaussian_blur(x, draw.sigma)
        if draw.solarize:
            x = torch.where(x < 127.5, x, 255 - x)
        return self.normalize(x)

    def _color_batch(self, x: Tensor, draws: Tensor) -> Tensor:
        factors, shift, order, grey, solarize, kernels = torch.split(draws, [3, 1, 4, 1, 1, _batch_ops.TAPS], dim=1)
        x = _batch_ops.color_jitter(x, factors, shift[:, 0], order)
        x = torch.where(grey.view(-1, 1, 1, 1) > 0, _batch_ops.luma(x), x)
        x = _batch_ops.gaussian_blur(x, kernels)
        x = torch.where((solarize.view(-1, 1, 1, 1) > 0) & (x >= 127.5), 255 - x, x)
        return self.normalize(x)


class TrainTransform:
    """Augmentation for supervised training, as in TransReID (He et al., ICCV 2021).

    Resize (bicubic), horizontal flip (p 0.5), black padding and random crop back, normalisation, random erasing.

    Args:
        img_size: (height, width) of the result.
        mean: of each channel, in [0, 1].
        std: of each channel, in [0, 1].
        padding: pixels added on every side before the random crop.
        erasing: probability that a rectangle is erased.
        erasing_fill: with what: ``"noise"`` (see `random_erasing`, as in TransReID), or one colour, ``"black"`` (as in
            fast-reid) or ``"mean"`` (see `constant_erasing`).
        jitter: how far brightness, contrast and saturation may be from 1, before anything else but the resize.
    """

    def __init__(
        self,
        img_size: Sequence[int] = (256, 128),
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        *,
        padding: int = 10,
        erasing: float = 0.5,
        erasing_fill: str = "noise",
        jitter: float = 0.0,
    ) -> None:
        self.img_size, self.padding, self.erasing = _size("img_size", img_size), padding, erasing
        self.jitter = jitter
        if padding < 0 or not 0 <= erasing <= 1:
            raise ConfigError(f"padding {padding}, erasing {erasing}: expected 0 or more, and a probability.")
        self.normalize = _Normalize(mean, std)
        fills = {"noise": None, "black": self.normalize.bias, "mean": torch.zeros(3, 1, 1)}
        if erasing_fill not in fills:
            raise ConfigError(f"erasing_fill is {erasing_fill!r}; expected one of {', '.join(fills)}.")
        self.fill = fills[erasing_fill]

    def __call__(self, image: Image.Image, rng: np.random.Generator | None = None) -> Tensor:
        """Return (3, height, width) float32, normalised."""
        rng = _generator(rng)
        x = resize(to_pixels(image), self.img_size, "bicubic")
        if self.jitter:
            draw = draw_jitter(rng, brightness=self.jitter, contrast=self.jitter, saturation=self.jitter, hue=0.0)
            x = color_jitter(x.to(torch.float32, memory_format=torch.contiguous_format), draw)
        if rng.random() < 0.5:
            x = x.flip(-1)
        height, width = self.img_size
        top, left = rng.integers(0, 2 * self.padding + 1, 2).tolist()
        x = F.pad(x, [self.padding] * 4)[:, top : top + height, left : left + width]
        x = self.normalize(x.to(torch.float32, memory_format=torch.contiguous_format))
        if rng.random() < self.erasing:
            x = random_erasing(x, rng) if self.fill is None else constant_erasing(x, rng, self.fill)
        return x


class EvalTransform:
    """Resize (by Pillow) and normalise.

    Args:
        img_size: (height, width) of the result.
        mean: of each channel, in [0, 1].
        std: of each channel, in [0, 1].
        interpolation: ``"bilinear"`` or ``"bicubic"``.

    Attributes:
        resample: Pillow's constant for the interpolation.
    """

    def __init__(
        self,
        img_size: Sequence[int] = (256, 128),
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        interpolation: str = "bilinear",
    ) -> None:
        self.img_size, self.normalize = _size("img_size", img_size), _Normalize(mean, std)
        filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
        if interpolation not in filters:
            raise ConfigError(f"interpolation is {interpolation!r}; expected one of {', '.join(filters)}.")
        self.resample = filters[interpolation]

    def __call__(self, image: Image.Image, rng: np.random.Generator | None = None) -> Tensor:
        """Return (3, height, width) float32, normalised; `rng` is not used."""
        height, width = self.img_size
        small = image.convert("RGB").resize((width, height), self.resample)
        return self.normalize(to_pixels(small).to(torch.float32, memory_format=torch.contiguous_format))


class _Normalize:
    """(x / 255 - mean) / std, in place, as one multiplication and one addition."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ConfigError(f"mean {tuple(mean)} and std {tuple(std)}: expected three numbers each, std positive.")
        self.scale = (1 / (255 * torch.tensor(std, dtype=torch.float64))).float().view(3, 1, 1)
        self.bias = (
            -(torch.tensor(mean, dtype=torch.float64) / torch.tensor(std, dtype=torch.float64)).float().view(3, 1, 1)
        )

    def __call__(self, x: Tensor) -> Tensor:
        scale, bias = self.scale.to(x.device), self.bias.to(x.device)
        return x.mul_(scale).add_(bias)


def _cut(pixels: Tensor, size: Size, draw: _Draw) -> Tensor:
    top, left, height, width = draw.box
    x = resize(pixels[:, top : top + height, left : left + width], size, "bicubic")
    return x.flip(-1) if draw.flip else x


def _generator(rng: np.random.Generator | None) -> np.random.Generator:
    return np.random.default_rng(int(torch.randint(2**63 - 1, ()))) if rng is None else rng


def _size(name: str, value: Sequence[int]) -> Size:
    if not isinstance(value, Sequence) or len(value) != 2 or min(value) < 1:
        raise ConfigError(f"{name} is {value}; expected (height, width).")
    return int(value[0]), int(value[1])

"""A network as a function from normalised images to features: mirror images, several sizes, mixed precision."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reidzoo.errors import ConfigError, did_you_mean

T = TypeVar("T")
Precision = Literal["fp32", "bf16", "fp16", "auto"]

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_GRID = 16  # pixels: every backbone of the zoo takes sizes that are multiples of it


@dataclass(frozen=True)
class Embedder:
    """The feature of an image is the mean of those of its views: each scale, and of each its mirror image.

    A head of ours has the last word on that mean: PCB normalises each part of it.

    Attributes:
        model: In evaluation mode, on `device`.
        device: Where it computes.
        flip: With mirror images.
        scales: Factors of the input's height and width.
        dtype: float32, or what `torch.autocast` computes in.
    """

    model: nn.Module
    device: torch.device
    flip: bool
    scales: tuple[float, ...]
    dtype: torch.dtype

    @classmethod
    def build(
        cls,
        model: nn.Module,
        device: str | torch.device,
        *,
        flip: bool,
        scales: Sequence[float],
        precision: Precision,
        spread: bool = False,
    ) -> Embedder:
        """Move `model` to the device and check the settings.

        Args:
            model: Maps (B, 3, H, W) to (B, D).
            device: ``"auto"``: where the model is, or a GPU if it is on the CPU and there is one.
            flip: As above.
            scales: As above.
            precision: ``"fp32"``, ``"bf16"``, ``"fp16"``; ``"auto"``: bf16 on a GPU that has it, else fp32.
            spread: Each rank of a machine takes the GPU of its own number.
        """
        if len(scales) == 0 or min(scales) <= 0:
            raise ConfigError(f"scales is {tuple(scales)}; expected positive factors of the input size, like (1, 1.5).")
        if precision not in (*_DTYPES, "auto"):
            known = (*_DTYPES, "auto")
            raise ConfigError(
                f"precision={precision!r} is not one of {', '.join(map(repr, known))}.{did_you_mean(precision, known)}"
            )
        place = _pick(model, device, spread)
        if precision == "auto":
            precision = "bf16" if place.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
        return cls(model.to(place), place, flip, tuple(map(float, scales)), _DTYPES[precision])

    @property
    def takes_cameras(self) -> bool:
        """Whether the model uses the cameras of the images, see `ReIDVisionTransformer.set_cameras`."""
        return bool(getattr(self.model, "takes_cameras", False))

    @torch.inference_mode()
    def __call__(self, batch: Tensor, *camids: Tensor) -> Tensor:
        """Return (B, D) float32 features of normalised images (B, 3, H, W), on `device`.

        Args:
            batch: The images.
            camids: (B,) their cameras, for a model that `takes_cameras`, if they are known.
        """
        kind = next(self.model.parameters(), torch.empty(0)).dtype
        # Copied, so that it is a tensor of inference mode as its views are: a compiled network tells them apart.
        batch = batch.to(self.device, kind, non_blocking=True, copy=True)
        camids = tuple(c.to(self.device, non_blocking=True) for c in camids)
        finish = getattr(getattr(self.model, "head", None), "finish", None)
        options = {} if finish is None else {"finish": False}
        total = torch.zeros((), device=self.device)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            for view in self._views(batch):
                total = total + _forward(self.model, view, *camids, **options).float()
        mean = total / (len(self.scales) * (1 + self.flip))
        return mean if finish is None else finish(mean)

    def _views(self, batch: Tensor) -> Iterator[Tensor]:
        height, width = batch.shape[-2:]
        for scale in self.scales:
            # Every scale starts from the image itself: resampling what was resampled before would add up the blur.
            size = scaled_size((height, width), scale)
            view = batch if size == (height, width) else _resample(batch, size)
            yield view
            if self.flip:
                yield view.flip(3)


def scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Return `size` (height, width) times `scale`, in multiples of 16 pixels; scale 1 leaves it as it is.

    Raises:
        ConfigError: The factor is too close to 1 to change this size.
    """
    if scale == 1:
        return size
    height, width = (max(_GRID, round(side * scale / _GRID) * _GRID) for side in size)
    if (height, width) == size:
        raise ConfigError(
            f"scale {scale:g} leaves images of {size[0]}x{size[1]} as they are: sizes are rounded to multiples of "
            f"{_GRID} pixels. Choose a factor further from 1."
        )
    return height, width


def _resample(batch: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(batch.float(), size, mode="bicubic", antialias=True).to(batch.dtype)


def _pick(model: nn.Module, device: str | torch.device, spread: bool) -> torch.device:
    at = next(model.parameters(), torch.empty(0)).device
    if device == "auto":
        wanted = torch.device("cuda") if at.type == "cpu" and torch.cuda.is_available() else at
    else:
        wanted = torch.device(device)
    if wanted.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device is {str(device)!r}, but this torch sees no GPU. Type: reidzoo doctor; or use 'cpu'.")
    if spread and wanted.type == "cuda":
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    return wanted


def _forward(model: nn.Module, batch: Tensor, *camids: Tensor, **options: bool) -> Tensor:
    output = model(batch, *camids, **options)
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != len(batch):
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ConfigError(
            f"{type(model).__name__} returned {found} for {len(batch)} images; expected a ({len(batch)}, D) tensor. "
            "A timm model needs its pooling and num_classes=0."
        )
    return output


def one_behind(items: Iterable[T]) -> Iterator[T]:
    """Yield `items`, each after the next was asked for: a GPU has its next batch before the last one is waited for."""
    waiting: list[T] = []
    for item in items:
        yield from waiting
        waiting = [item]
    yield from waiting

"""From images to feature arrays."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from reidzoo._logging import progress
from reidzoo.data.loaders import ImageDataset, build_loader
from reidzoo.data.records import Records
from reidzoo.errors import ConfigError, DataError
from reidzoo.eval.preprocess import create_transform

Images = Records | Sequence[str | os.PathLike[str]] | Sequence[Image.Image] | NDArray[np.uint8] | Tensor
ImageTransform = Callable[[Image.Image], Tensor]


def extract_features(
    model: nn.Module,
    images: Images,
    *,
    batch_size: int = 64,
    flip: bool = True,
    num_workers: int = 2,
    device: str | torch.device = "auto",
    img_size: int | tuple[int, int] | None = None,
    transform: ImageTransform | None = None,
    desc: str = "Extracting features",
) -> NDArray[np.float32]:
    """Run `model` over `images` in evaluation mode.

    The features are as the model gives them, not normalised: `compute_metrics` and `search` normalise for the cosine
    themselves. The model is back in its former mode afterwards; it stays on the device it was moved to.

    Args:
        model: Maps (B, 3, H, W) float images to (B, D).
        images: `Records`, image files, PIL images, (N, H, W, 3) uint8 RGB arrays (one array or a list), or a
            (N, 3, H, W) float tensor that is resized and normalised already.
        batch_size: Images per forward pass.
        flip: Average the features of each image and of its mirror image, before any normalisation.
        num_workers: Processes that decode files; 0 decodes in this one. The features are the same.
        device: ``"auto"``: where the model is, or a GPU if it is on the CPU and there is one.
        img_size: (height, width) to resize to; None: the model's own.
        transform: From an RGB PIL image to a (3, H, W) tensor; None: `create_transform` of the model.
        desc: Label of the progress bar.

    Returns:
        (N, D) float32, rows in the order of `images`.

    Raises:
        CorruptImageError: A file cannot be decoded; names it.
        DataError: No images, images of an unknown kind, or a feature that is NaN or infinite.
        ConfigError: The model's output is not (B, D), or its preprocessing is unknown.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}; it must be at least 1.")
    if len(images) == 0:
        raise DataError("There are no images to extract features from.")
    device = _device(model, device)
    model.to(device)
    parameter = next(model.parameters(), torch.empty(0))
    batches = _batches(model, images, batch_size, num_workers, img_size, transform)
    features = np.empty((len(images), 0), np.float32)
    row = 0
    with evaluation_mode(model), torch.inference_mode(), progress(desc=desc, total=len(images), unit="img") as bar:
        for batch in batches:
            batch = batch.to(device, parameter.dtype, non_blocking=True)
            output = _forward(model, batch)
            if flip:
                output = (output + _forward(model, batch.flip(3))) / 2
            if row == 0:
                features = np.empty((len(images), output.shape[1]), np.float32)
            values = output.float().cpu().numpy()
            _check_finite(values, row, images)
            features[row : row + len(values)] = values
            row += len(values)
            bar.update(len(values))
    return features


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put `model` in evaluation mode; afterwards every module has its former mode, frozen parts included."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _device(model: nn.Module, device: str | torch.device) -> torch.device:
    if device != "auto":
        return torch.device(device)
    at = next(model.parameters(), torch.empty(0)).device
    return torch.device("cuda") if at.type == "cpu" and torch.cuda.is_available() else at


def _forward(model: nn.Module, batch: Tensor) -> Tensor:
    output = model(batch)
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != len(batch):
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ConfigError(
            f"{type(model).__name__} returned {found} for {len(batch)} images; expected a ({len(batch)}, D) tensor. "
            "A timm model needs its pooling and num_classes=0."
        )
    return output


def _check_finite(values: NDArray[np.float32], first: int, images: Images) -> None:
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        index = first + int(bad[0])
        name = f" ({images.path[index]})" if isinstance(images, Records) else ""
        raise DataError(
            f"The model's feature of image {index}{name} is NaN or infinite. Check the weights (did the training run "
            "diverge?) and, for a model in half precision, use float32."
        )


@dataclass
class _WithoutRandomness:
    """A plain image transform where the data room passes a generator as well; picklable for the workers."""

    transform: ImageTransform

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Tensor:
        return self.transform(image)


def _batches(
    model: nn.Module,
    images: Images,
    batch_size: int,
    num_workers: int,
    img_size: int | tuple[int, int] | None,
    transform: ImageTransform | None,
) -> Iterator[Tensor]:
    """Yield (B, 3, H, W) tensors in the order of `images`."""
    if isinstance(images, Tensor):
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise DataError(
                f"The image tensor is {images.dtype} of shape {tuple(images.shape)}; expected normalised floats "
                "(N, 3, H, W). Pass 8-bit pictures as a (N, H, W, 3) uint8 array instead."
            )
        yield from torch.split(images, batch_size)
        return
    apply: Any = transform if transform is not None else create_transform(model, img_size=img_size)
    if not isinstance(images, Records) and all(isinstance(image, str | os.PathLike) for image in images):
        nobody = np.full(len(images), -1)
        images = Records.from_columns(images, nobody, nobody)  # type: ignore[arg-type]
    starts = range(0, len(images), batch_size)
    if isinstance(images, Records):
        rows = [list(range(start, min(start + batch_size, len(images)))) for start in starts]
        dataset = ImageDataset(images, _WithoutRandomness(apply))
        for views, _ in build_loader(dataset, rows, num_workers=min(num_workers, len(rows))):
            yield views[0]
    else:
        for start in starts:
            yield torch.stack([apply(_as_image(image)) for image in images[start : start + batch_size]])


def _as_image(image: Any) -> Image.Image:
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return Image.fromarray(image)
    what = f"a {image.dtype} array of shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
    raise DataError(
        f"An image is {what}; expected all file paths, all PIL images, or (H, W, 3) uint8 RGB arrays. "
        "OpenCV pictures are BGR: pass image[..., ::-1]."
    )

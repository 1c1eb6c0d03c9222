"""Whatever holds images, as batches of tensors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from reidzoo.data.loaders import ImageDataset, build_loader
from reidzoo.data.records import Records
from reidzoo.errors import DataError

Images: TypeAlias = Records | Sequence[str | os.PathLike[str]] | Sequence[Image.Image] | NDArray[np.uint8] | Tensor
ImageTransform: TypeAlias = Callable[[Image.Image], Tensor]
Rows: TypeAlias = NDArray[np.int64]


@dataclass
class _WithoutRandomness:
    """A plain image transform where the data room passes a generator as well; picklable for the workers."""

    transform: ImageTransform

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Tensor:
        return self.transform(image)


def as_records(images: Images) -> Records | None:
    """Return images that are files as records (identity and camera unknown where nobody said), others as None."""
    if isinstance(images, Records):
        return images
    if isinstance(images, Tensor | np.ndarray) or not all(isinstance(i, str | os.PathLike) for i in images):
        return None
    nobody = np.full(len(images), -1)
    return Records.from_columns(images, nobody, nobody)  # type: ignore[arg-type]


def load_batches(
    images: Images, batches: Sequence[Rows], transform: ImageTransform, num_workers: int
) -> Iterator[Tensor]:
    """Yield (B, 3, H, W) float tensors of the rows of each batch.

    Args:
        images: Files, pictures, or a normalised tensor.
        batches: Row numbers.
        transform: From an RGB PIL image to a (3, H, W) tensor; not applied to a tensor.
        num_workers: Processes that decode files; 0 decodes in this one.
    """
    if isinstance(images, Tensor):
        for rows in batches:
            yield images[torch.from_numpy(rows)]
        return
    records = as_records(images)
    if records is None:
        pictures: Any = images
        for rows in batches:
            yield torch.stack([transform(as_image(pictures[row])) for row in rows.tolist()])
        return
    dataset = ImageDataset(records, _WithoutRandomness(transform))
    plan = [rows.tolist() for rows in batches]
    for views, _ in build_loader(dataset, plan, num_workers=min(num_workers, len(plan))):
        yield views[0]


def check_tensor(images: Images) -> None:
    """Raise `DataError` if a tensor is not one of normalised images."""
    if isinstance(images, Tensor) and (images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point()):
        raise DataError(
            f"The image tensor is {images.dtype} of shape {tuple(images.shape)}; expected normalised floats "
            "(N, 3, H, W). Pass 8-bit pictures as a (N, H, W, 3) uint8 array instead."
        )


def as_image(image: Any) -> Image.Image:
    """Return a PIL image or an (H, W, 3) uint8 array as an RGB PIL image.

    Raises:
        DataError: It is neither.
    """
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return Image.fromarray(image)
    what = f"a {image.dtype} array of shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
    raise DataError(
        f"An image is {what}; expected all file paths, all PIL images, or (H, W, 3) uint8 RGB arrays. "
        "OpenCV pictures are BGR: pass image[..., ::-1]."
    )

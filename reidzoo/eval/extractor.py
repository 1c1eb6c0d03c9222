"""Features of one's own pictures, as they come: a network that is ready, behind one call."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor, nn

from reidzoo.data.loaders import read_image
from reidzoo.data.transforms import EvalTransform
from reidzoo.errors import ConfigError, DataError
from reidzoo.eval._embed import Embedder, Precision, one_behind
from reidzoo.eval._images import ImageTransform, as_image
from reidzoo.eval._model import load_model
from reidzoo.eval.preprocess import create_transform

Picture: TypeAlias = str | os.PathLike[str] | Image.Image | NDArray[np.uint8]
_Box: TypeAlias = tuple[int, int, int, int]  # left, top, right, bottom


class Extractor:
    """A network that turns pictures of persons into L2-normalised features.

    ``extractor(images)`` and ``extractor(frame, boxes)`` may be called from several threads at once: pictures are
    decoded and resized in a pool of threads while the network computes the batch before, one batch at a time.

    Args:
        model: A module that maps (B, 3, H, W) to (B, D), a name for `create_model`, or a file or run folder of reidzoo.
            A module is moved to `device` and stays in evaluation mode.
        device: ``"auto"``: where the model is, or a GPU if it is on the CPU and there is one.
        batch_size: Images per forward pass.
        img_size: (height, width) to resize to; None: the model's own.
        transform: From an RGB PIL image to a (3, H, W) tensor; None: `create_transform` of the model.
        flip: Average the features of each image and of its mirror image; takes twice the time.
        scales: Average over these multiples of the input size, see `extract_features`.
        precision: ``"fp32"``, ``"bf16"``, ``"fp16"`` or ``"auto"``, see `extract_features`.
        bgr: Arrays are BGR, as OpenCV reads them; files and PIL images need no word about it.
        threads: That decode and resize; None: one per core.

    Attributes:
        dim: Length D of a feature.

    Raises:
        UnknownModelError: As from `create_model`.
        ConfigError: The model gives no (B, D) features, or its preprocessing is unknown.
    """

    def __init__(
        self,
        model: nn.Module | str | Path,
        *,
        device: str | torch.device = "auto",
        batch_size: int = 64,
        img_size: int | tuple[int, int] | None = None,
        transform: ImageTransform | None = None,
        flip: bool = False,
        scales: Sequence[float] = (1.0,),
        precision: Precision = "fp32",
        bgr: bool = False,
        threads: int | None = None,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; it must be at least 1.")
        network = load_model(model, img_size).eval()
        self._embed = Embedder.build(network, device, flip=flip, scales=scales, precision=precision)
        self._transform: Any = transform if transform is not None else create_transform(network, img_size=img_size)
        self._batch_size, self._bgr = batch_size, bgr
        self._pool = ThreadPoolExecutor(threads or os.cpu_count(), thread_name_prefix="reidzoo")
        self._lock = (
            threading.Lock()
        )  # of the network: two batches at once would take twice the memory and no less time
        # The first batch is slow (kernels are chosen, memory is fetched): it is not a caller's.
        some = batch_size if self._embed.device.type == "cuda" else 1
        grey = self._prepare(Image.new("RGB", (64, 128), (128, 128, 128)), None)
        self.dim: int = self._forward([grey] * some).shape[1]

    def __call__(
        self, images: Picture | Iterable[Picture], boxes: ArrayLike | Tensor | None = None
    ) -> NDArray[np.float32]:
        """Return the features of pictures, or of boxes in one picture.

        Args:
            images: One picture or several (a list, an (N, H, W, 3) array, a generator): image files, PIL images or
                (H, W, 3) uint8 arrays. With `boxes`, the one picture that they lie in.
            boxes: (N, 4) left, top, right, bottom in pixels of the picture. They are cut off at its edges.

        Returns:
            (N, D) float32, each row of length 1; N may be 0.

        Raises:
            CorruptImageError, DataNotFoundError: A file cannot be decoded or is missing; names it.
            DataError: Something else than a picture, a box without a pixel of the picture, or a feature that is NaN or
                infinite.
        """
        if boxes is None:
            one = isinstance(images, str | os.PathLike | Image.Image) or getattr(images, "ndim", 4) == 3
            work: Iterable[tuple[Any, _Box | None]] = ((image, None) for image in ([images] if one else images))  # type: ignore[union-attr]
        else:
            frame = _frame(images)
            work = [(frame, box) for box in _pixels_of(boxes, frame)]
        rows = [output.cpu().numpy() for output in one_behind(map(self._forward, self._batches(work)))]
        features: NDArray[np.float32] = np.concatenate(rows) if rows else np.empty((0, self.dim), np.float32)
        return _normalized(features)

    def _batches(self, work: Iterable[tuple[Any, _Box | None]]) -> Iterator[list[Any]]:
        """Yield prepared batches; the next one is being prepared meanwhile."""
        source, waiting = iter(work), list[Future[Any]]()
        while True:
            coming = [self._pool.submit(self._prepare, *item) for item in islice(source, self._batch_size)]
            if waiting:
                yield [future.result() for future in waiting]
            if not coming:
                return
            waiting = coming

    def _prepare(self, image: Any, box: _Box | None) -> Any:
        """Decode, cut out and resize: (H, W, 3) uint8 for our own transform, (3, H, W) floats of another."""
        swap = self._bgr and isinstance(image, np.ndarray)
        if isinstance(image, str | os.PathLike):
            image = read_image(os.fspath(image))
        if isinstance(image, np.ndarray) and box is not None:
            image = image[box[1] : box[3], box[0] : box[2]]
            box = None
        picture = as_image(image) if box is None else as_image(image).crop(box)
        if not isinstance(self._transform, EvalTransform):
            return self._transform(_swapped(picture) if swap else picture)
        height, width = self._transform.img_size
        pixels = np.asarray(picture.resize((width, height), self._transform.resample))
        return pixels[:, :, ::-1] if swap else pixels  # resizing treats the colours alike: a small image is swapped

    def _forward(self, prepared: Sequence[Any]) -> Tensor:
        """Return (B, D) float32 features, on the device."""
        if isinstance(prepared[0], Tensor):
            batch = torch.stack(list(prepared))
        else:
            pixels = torch.from_numpy(np.stack(prepared)).to(self._embed.device)
            batch = self._transform.normalize(
                pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
            )
        with self._lock:
            if self._embed.model.training:  # its owner went on training it
                self._embed.model.eval()
            return self._embed(batch)


def _frame(image: Any) -> Any:
    """The picture that boxes lie in, decoded once and checked."""
    if isinstance(image, str | os.PathLike):
        return read_image(os.fspath(image))
    if not isinstance(image, np.ndarray):
        return as_image(image)
    as_image(image[:1])  # its type and shape
    return image


def _pixels_of(boxes: ArrayLike | Tensor, frame: Any) -> list[_Box]:
    """The pixels that boxes touch, within the picture."""
    corners = np.asarray(boxes.detach().cpu() if isinstance(boxes, Tensor) else boxes, dtype=np.float64)
    corners = corners.reshape(0, 4) if corners.size == 0 else corners
    if corners.ndim != 2 or corners.shape[1] != 4:
        raise DataError(f"boxes has shape {corners.shape}; expected (N, 4): left, top, right, bottom in pixels.")
    width, height = frame.size if isinstance(frame, Image.Image) else frame.shape[1::-1]
    with np.errstate(invalid="ignore"):
        first = np.floor(corners[:, :2]).clip(0, None)
        last = np.ceil(corners[:, 2:]).clip(None, (width, height))
    bad = np.flatnonzero(~((first < last).all(axis=1) & np.isfinite(corners).all(axis=1)))
    if len(bad):
        raise DataError(
            f"Box {bad[0]} ({', '.join(f'{v:g}' for v in corners[bad[0]])}) holds no pixel of the picture, which is "
            f"{width} wide and {height} high ({len(bad)} of {len(corners)} boxes). Expected left, top, right, bottom."
        )
    return [(left, top, right, bottom) for left, top, right, bottom in np.hstack([first, last]).astype(int).tolist()]


def _swapped(picture: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(picture)[:, :, ::-1].copy())


def _normalized(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Divide each row by its length, in place; a zero row stays zero."""
    norm = np.sqrt(np.einsum("nd,nd->n", features, features, dtype=np.float64))
    if not np.isfinite(norm).all():
        bad = np.flatnonzero(~np.isfinite(norm))
        raise DataError(
            f"{len(bad)} features contain NaN or infinity (first images: {bad[:5].tolist()}). Check the weights (did "
            "the training run diverge?), or use precision='fp32'."
        )
    features /= np.where(norm > 0, norm, 1).astype(np.float32)[:, None]
    return features

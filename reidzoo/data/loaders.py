"""From records to batches of tensors, the same for any number of workers, batch size and ranks."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from reidzoo._logging import progress
from reidzoo.data.records import Records
from reidzoo.errors import ConfigError, CorruptImageError, DataError, DataNotFoundError

Views = Tensor | list[Tensor]
Transform = Callable[[Image.Image, np.random.Generator], Views]

# What Pillow's decoders raise on damaged files, beside OSError.
_DECODE_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error, Image.DecompressionBombError
)  # fmt: skip


class SampleKey(NamedTuple):
    """One use of an image: its row, the epoch, and how many times it came up earlier in this epoch."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    epoch: int = 0
    draw: int = 0


class EpochBatches(Sequence[list[SampleKey]]):
    """A sampler's plan of one epoch as batches of sample keys, made when asked for.

    Args:
        plan: (steps, batch, 2) int64 of (index, draw), from a sampler's ``epoch(e)``.
        epoch: the epoch e.
        start: first step to yield, to go on in the middle of an epoch.
    """

    def __init__(self, plan: NDArray[np.int64], epoch: int, start: int = 0) -> None:
        self._plan, self._epoch = plan[start:], epoch

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, step: Any) -> Any:
        return [SampleKey(index, self._epoch, draw) for index, draw in self._plan[step].tolist()]


class ImageDataset(Dataset[tuple[list[Tensor], Any]]):
    """Images of `records`, transformed.

    The randomness of a sample comes from (seed, index, epoch, draw) alone: not from the worker that makes it, the
    batch it is in or the rank that asked for it.

    Args:
        records: images to open.
        transform: callable (RGB image, generator) -> tensor or list of tensors (views).
        seed: not negative.
        cameras: give (pid, camid) instead of the pid, for networks that use the camera.
    """

    def __init__(self, records: Records, transform: Transform, seed: int = 0, *, cameras: bool = False) -> None:
        if seed < 0:
            raise ConfigError(f"seed is {seed}; expected 0 or more.")
        self.records, self.transform, self.seed, self.cameras = records, transform, seed, cameras

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: SampleKey | int) -> tuple[list[Tensor], Any]:
        """List of views (of one, if the transform returns a tensor) and pid; a plain row number means epoch 0, draw 0.

        With `cameras` the pid is an array of two int64, pid and camid.

        Raises:
            CorruptImageError: The image cannot be decoded.
            DataNotFoundError: The file is gone.
        """
        index, epoch, draw = key if isinstance(key, tuple) else SampleKey(key)
        rng = np.random.default_rng((self.seed, index, epoch, draw))
        image = read_image(self.records.path[index])
        with _one_thread():
            views = self.transform(image, rng)
        pid = int(self.records.pid[index])
        label = np.array([pid, self.records.camid[index]]) if self.cameras else pid
        return views if isinstance(views, list) else [views], label


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch to one thread, as it is in loader processes: on small views, threads mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _Loader(DataLoader[Any]):
    """A DataLoader whose workers' data errors arrive as raised, without the worker's traceback in their text."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        try:
            yield from super().__iter__()
        except DataError as e:
            # What comes from a worker reads "Caught ... Original Traceback ... Class: message"; keep the message.
            if not str(e).startswith("Caught "):
                raise
            raise type(e)(str(e).rstrip().splitlines()[-1].partition(": ")[2]) from e


def build_loader(
    dataset: ImageDataset,
    batches: Iterable[list[SampleKey]] | Iterable[list[int]],
    *,
    num_workers: int = 0,
    pin_memory: bool | None = None,
    prefetch_factor: int = 2,
) -> DataLoader[Any]:
    """Load `batches` of `dataset` in their order.

    Yields ``[views, pids]``: views is a list of (B, 3, H, W) tensors, one per view; pids is (B,)
    int64, or (B, 2) of pids and camids. Global random states are neither used nor changed.

    Args:
        dataset: the images.
        batches: row numbers or sample keys of each batch, for example `EpochBatches`.
        num_workers: processes that load; 0 loads in this one. The batches are the same.
        pin_memory: page-locked tensors, for faster copies to a GPU; None: where there is one.
        prefetch_factor: batches that each worker makes ahead.
    """
    return _Loader(
        dataset,
        batch_sampler=batches,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available() if pin_memory is None else pin_memory,
        prefetch_factor=prefetch_factor if num_workers else None,
        generator=torch.Generator(),  # or each pass would draw its base seed from torch's global state
    )


def read_image(path: str) -> Image.Image:
    """Decode an image file to 8-bit RGB, upright.

    EXIF orientation is applied; palettes, grey and CMYK are converted, an alpha channel is dropped, and 16-bit grey is
    scaled to 8 bits.

    Raises:
        CorruptImageError: The file cannot be decoded; names it and the reason.
        DataNotFoundError: There is no such file.
    """
    try:
        return _decode(path)
    except FileNotFoundError as e:
        raise DataNotFoundError(f"The image {path} is missing. Restore it, or read the data set again.") from e
    except _DECODE_ERRORS as e:
        raise CorruptImageError(
            f"The image {path} cannot be decoded ({_reason(e)}). Replace or delete the file. All that are damaged in a "
            f"data set, lists: reidzoo data check DATA --decode"
        ) from e


def _decode(path: str, draft: bool = False) -> Image.Image:
    """Decode `path`; `draft` reads all of a JPEG's data but computes as few pixels as it can."""
    with Image.open(path) as image:
        if draft:
            image.draft("RGB", (1, 1))
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return _to_rgb(image)


def _reason(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error)  # the system's words, without the path that is named anyway
    return " ".join(text.split()) or type(error).__name__


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode == "I" or image.mode.startswith("I;16"):  # Pillow would clip 16-bit values at 255
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range")
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def check_images(
    records: Records, *, workers: int | None = None, desc: str = "Checking images"
) -> list[tuple[int, str]]:
    """Decode every image and return the (row, reason) of those that cannot be.

    Args:
        records: images to check.
        workers: threads; None: one per core (decoding runs outside Python's lock).
        desc: label of the progress bar.
    """
    rows = np.array_split(np.arange(len(records)), max(1, len(records) // 64))

    def check(block: NDArray[np.int64]) -> list[tuple[int, str]]:
        bad = []
        for i in block.tolist():
            try:
                _decode(records.path[i], draft=True)
            except _DECODE_ERRORS as e:
                bad.append((i, _reason(e)))
        return bad

    bad: list[tuple[int, str]] = []
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool, progress(desc=desc, total=len(records)) as bar:
        for block, found in zip(rows, pool.map(check, rows), strict=True):
            bad += found
            bar.update(len(block))
    return bad

"""From images to feature arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from reidzoo._logging import get_logger, progress
from reidzoo.data.records import Records
from reidzoo.errors import ConfigError, DataError
from reidzoo.eval._embed import Embedder, Precision, one_behind
from reidzoo.eval._images import Images, ImageTransform, Rows, as_records, check_tensor, load_batches
from reidzoo.eval._workers import Workers, share_work
from reidzoo.eval.feature_files import FeatureWriter, fingerprint
from reidzoo.eval.preprocess import create_transform
from reidzoo.models._chain import evaluation_mode

Floats = NDArray[np.float32]
Sink = Callable[[Rows, Floats], None]
_logger = get_logger(__name__)


def extract_features(
    model: nn.Module,
    images: Images,
    *,
    batch_size: int = 64,
    flip: bool = True,
    scales: Sequence[float] = (1.0,),
    precision: Precision = "fp32",
    num_workers: int = 2,
    device: str | torch.device = "auto",
    img_size: int | tuple[int, int] | None = None,
    transform: ImageTransform | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    dtype: Literal["float32", "float16"] = "float32",
    distributed: bool | None = None,
    desc: str = "Extracting features",
) -> Floats:
    """Run `model` over `images` in evaluation mode.

    The features are as the model gives them, not normalised: `compute_metrics` and `search` normalise for the cosine
    themselves. The model is back in its former mode afterwards; it stays on the device it was moved to.

    Under torchrun the ranks share the images, and each returns the features of all.

    Args:
        model: Maps (B, 3, H, W) float images to (B, D). One that `takes_cameras` gets those of `Records` with them.
        images: `Records`, image files, PIL images, (N, H, W, 3) uint8 RGB arrays (one array or a list), or a
            (N, 3, H, W) float tensor that is resized and normalised already.
        batch_size: Images per forward pass.
        flip: Average the features of each image and of its mirror image, before any normalisation.
        scales: Average the features of the image at these multiples of its input size, rounded to multiples of 16
            pixels. Each is resampled (bicubic) from the image itself. layumi's ``--ms 1,1.1`` means the *square roots*
            of its numbers.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"`` (`torch.autocast`); ``"auto"``: bf16 on a GPU that has it.
        num_workers: Processes that decode files; 0 decodes in this one. The features are the same.
        device: ``"auto"``: where the model is, or a GPU if it is on the CPU and there is one.
        img_size: (height, width) to resize to; None: the model's own.
        transform: From an RGB PIL image to a (3, H, W) tensor; None: `create_transform` of the model.
        out: File ``X.npy`` to write the features to while they are made, with ``X.ids.csv`` and ``X.json`` beside it;
            for `Records` and image files. What was stopped goes on where it was, also with another batch size or number
            of ranks; what is finished is not made again.
        overwrite: Make `out` anew if it holds something else (other weights, images or settings).
        dtype: Numbers of the file `out`; float16 takes half the room, and rounds to 3 digits.
        distributed: Whether the ranks of this job share the images; all of them have to call. None: if torchrun started
            them and no process group exists (in a training of your own, one rank may be evaluating alone: say True).
        desc: Label of the progress bar.

    Returns:
        (N, D) float32, rows in the order of `images`; with `out` a read-only memory map of `dtype`.

    Raises:
        CorruptImageError: A file cannot be decoded; names it.
        DataError: No images, images of an unknown kind, or a feature that is NaN or infinite.
        ConfigError: The model's output is not (B, D), its preprocessing is unknown, or `out` holds other features.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}; it must be at least 1.")
    if len(images) == 0:
        raise DataError("There are no images to extract features from.")
    check_tensor(images)
    if transform is None and not isinstance(images, torch.Tensor):
        transform = create_transform(model, img_size=img_size)
    apply: Any = transform
    with share_work(distributed) as workers, evaluation_mode(model):
        embed = Embedder.build(
            model, device, flip=flip, scales=scales, precision=precision, spread=workers.size > 1
        )  # fmt: skip

        def run(rows: Rows, sink: Sink) -> None:
            batches = workers.part([rows[i : i + batch_size] for i in range(0, len(rows), batch_size)])
            _run(embed, images, batches, apply, num_workers, sink, desc)

        if out is not None:
            return _to_file(Path(out), overwrite, dtype, embed, images, apply, run, workers)
        return workers.concatenate(lambda: _to_array(len(images), run))


def _to_array(total: int, run: Callable[[Rows, Sink], None]) -> Floats:
    """Return the features of this rank's share, its rows one below the other."""
    found = np.empty((0, 0), np.float32)
    filled = 0

    def sink(rows: Rows, values: Floats) -> None:
        nonlocal found, filled
        if filled == 0:
            found = np.empty((total, values.shape[1]), np.float32)  # pages that stay unused cost nothing
        found[filled : filled + len(rows)] = values
        filled += len(rows)

    run(np.arange(total), sink)
    return found[:filled]


def _to_file(
    path: Path,
    overwrite: bool,
    dtype: str,
    embed: Embedder,
    images: Images,
    transform: ImageTransform,
    run: Callable[[Rows, Sink], None],
    workers: Workers,
) -> Floats:
    """Write the features of all images to `path`, or what is missing of them."""
    records = as_records(images)
    if records is None:
        raise ConfigError("out=... keeps what the features belong to by file name: pass Records or image files.")
    (one,) = load_batches(records, [np.zeros(1, np.int64)], transform, 0)
    made_by = {
        "model": getattr(embed.model, "reidzoo_name", "") or type(embed.model).__name__,
        "weights": fingerprint(embed.model),
        "dim": embed(one).shape[1],
        "transform": _describe(transform),
        "flip": embed.flip,
        "scales": embed.scales,
        "precision": str(embed.dtype).removeprefix("torch."),
    }
    if dtype != "float32":
        made_by["dtype"] = dtype
    writer = FeatureWriter(path, records, made_by)
    if not workers.first(lambda: writer.is_done(overwrite=overwrite)):
        workers.first(writer.begin)

        def fill() -> None:
            try:
                run(writer.open(), writer.write)
            finally:
                writer.flush()

        workers.each(fill)
        workers.first(writer.finish)
    values: Floats = np.load(path, mmap_mode="r")
    return values


def _describe(transform: ImageTransform) -> str:
    """What tells one transform from another, in words."""
    values = {
        key: torch.as_tensor(value).flatten().tolist() if isinstance(value, torch.Tensor) else value
        for part in (transform, getattr(transform, "normalize", None))
        for key, value in getattr(part, "__dict__", {}).items()
        if isinstance(value, torch.Tensor | int | float | str | tuple | list)
    }
    name = getattr(transform, "__qualname__", type(transform).__qualname__)
    return f"{name}({', '.join(f'{k}={v}' for k, v in values.items())})"


def _run(
    embed: Embedder,
    images: Images,
    batches: Sequence[Rows],
    transform: ImageTransform,
    num_workers: int,
    sink: Sink,
    desc: str,
) -> None:
    """Hand the features of each batch to `sink`."""
    inputs: list[Iterable[Any]] = [load_batches(images, batches, transform, num_workers)]
    if embed.takes_cameras and isinstance(images, Records):
        _warn_of_new_cameras(embed.model, images)
        inputs.append(torch.from_numpy(images.camid[rows]) for rows in batches)
    outputs = one_behind(map(embed, *inputs))
    with progress(desc=desc, total=sum(map(len, batches)), unit="img") as bar:
        for rows, output in zip(batches, outputs, strict=True):
            values = output.cpu().numpy()
            _check_finite(values, rows, images)
            sink(rows, values)
            bar.update(len(rows))


def _warn_of_new_cameras(model: Any, records: Records) -> None:
    known = getattr(model, "backbone", model).cameras.cpu().numpy()
    new = ~np.isin(records.camid, known)
    if new.any():
        _logger.warning(
            "%d of %d images are from cameras without a vector in the network (%s; it knows %s): they get the mean "
            "vector.", new.sum(), len(records), ", ".join(map(str, np.unique(records.camid[new])[:5])), known.tolist(),
        )  # fmt: skip


def _check_finite(values: Floats, rows: Rows, images: Images) -> None:
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        index = int(rows[bad[0]])
        name = f" ({images.path[index]})" if isinstance(images, Records) else ""
        raise DataError(
            f"The model's feature of image {index}{name} is NaN or infinite. Check the weights (did the training run "
            "diverge?) and, for a model in half precision, use float32."
        )

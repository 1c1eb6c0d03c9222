"""`reidzoo extract`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np

from reidzoo._files import atomic
from reidzoo.cli._model import add_inference_arguments, add_model_argument, load_model
from reidzoo.data import Records, load_dataset
from reidzoo.errors import ConfigError, DataError, DataNotFoundError

SPLITS = ("train", "query", "gallery")
_IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    add_model_argument(parser)
    parser.add_argument("images", metavar="IMAGES", help="an image, a folder (with all below it), or a data set")
    parser.add_argument(
        "out",
        metavar="OUT",
        type=Path,
        help="X.npy: features (N, D), with one path per row in X.paths.txt; X.npz: features, paths, pids, camids",
    )
    parser.add_argument("--split", choices=SPLITS, help="one part of a data set (default: all of it)")
    add_inference_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Extract, and write the features with what they belong to."""
    if args.out.suffix not in (".npy", ".npz"):
        raise ConfigError(f"OUT is {args.out}; expected a name that ends in .npy or .npz")
    records = _records(args)
    from reidzoo.eval import extract_features

    features = extract_features(
        load_model(args, args.img_size),
        records,
        img_size=args.img_size,
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        flip=args.flip,
        device=args.device,
    )
    for path in _write(args.out, features, records):
        print(path)
    return 0


def _records(args: argparse.Namespace) -> Records:
    path = Path(args.images).expanduser()
    if path.exists():
        if args.split:
            raise ConfigError(f"--split {args.split} is for data sets; {path} is read as a folder of images")
        files = [str(path)] if path.is_file() else _images_below(path)
        if not files:
            raise DataError(f"{path} holds no image. Expected files ending in {', '.join(_IMAGES)}")
        unknown = np.full(len(files), -1)
        return Records.from_columns(files, unknown, unknown)
    if ":" not in args.images and (os.sep in args.images or "." in args.images):
        raise DataNotFoundError(f"There is no image or folder {path}.")
    data = load_dataset(args.images)
    parts = [getattr(data, split) for split in ([args.split] if args.split else SPLITS)]
    return Records.from_columns(
        [p for part in parts for p in part.path],
        np.concatenate([part.pid for part in parts]),
        np.concatenate([part.camid for part in parts]),
    )


def _images_below(folder: Path) -> list[str]:
    """Paths of all images below `folder`, sorted."""
    found = [os.path.join(at, name) for at, _, names in os.walk(folder) for name in names]
    return sorted(path for path in found if path.lower().endswith(_IMAGES))


def _write(out: Path, features: np.ndarray, records: Records) -> list[Path]:
    paths = list(records.path)
    if out.suffix == ".npz":
        with atomic(out) as temporary, temporary.open("wb") as f:
            np.savez(f, features=features, paths=np.array(paths), pids=records.pid, camids=records.camid)
        return [out]
    names = out.with_suffix(".paths.txt")
    with atomic(names) as temporary:
        temporary.write_text("".join(f"{path}\n" for path in paths), encoding="utf-8")
    with atomic(out) as temporary, temporary.open("wb") as f:
        np.save(f, features)
    return [out, names]

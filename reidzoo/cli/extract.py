"""`reidzoo extract`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np

from reidzoo._logging import rank_from_env
from reidzoo.cli._model import add_inference_arguments, add_model_argument, inference_options, load_model
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
        help="X.npy: features (N, D), written while they are made, with X.ids.csv (path, pid, camid) and X.json; "
        "X.npz: all in one file, at the end",
    )
    parser.add_argument("--split", choices=SPLITS, help="one part of a data set (default: all of it)")
    add_inference_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Extract, and write the features with what they belong to."""
    if args.out.suffix not in (".npy", ".npz"):
        raise ConfigError(f"OUT is {args.out}; expected a name that ends in .npy or .npz")
    records = image_records(args.images, args.split)
    from reidzoo.eval import extract_features
    from reidzoo.eval.feature_files import fingerprint, ids_file, save_features

    model, options = load_model(args, args.img_size), inference_options(args)
    if args.out.suffix == ".npy":
        extract_features(model, records, out=args.out, **options)
        written = [args.out, ids_file(args.out), args.out.with_suffix(".json")]
    else:
        features = extract_features(model, records, **options)
        if rank_from_env() == 0:
            made_by = {"weights": fingerprint(model), "flip": args.flip, "scales": args.scales}
            save_features(args.out, features, records, made_by)
        written = [args.out]
    if rank_from_env() == 0:
        print(*written, sep="\n")
    return 0


def image_records(images: str, split: str | None) -> Records:
    """Turn IMAGES into records: a file, all files below a folder, or a data set (all of it, or one split)."""
    path = Path(images).expanduser()
    if path.exists():
        if split:
            raise ConfigError(f"--split {split} is for data sets; {path} is read as a folder of images")
        files = [str(path)] if path.is_file() else _images_below(path)
        if not files:
            raise DataError(f"{path} holds no image. Expected files ending in {', '.join(_IMAGES)}")
        unknown = np.full(len(files), -1)
        return Records.from_columns(files, unknown, unknown)
    if ":" not in images and (os.sep in images or "." in images):
        raise DataNotFoundError(f"There is no image or folder {path}.")
    data = load_dataset(images)
    splits = [split] if split else list(SPLITS)
    parts = [getattr(data, split) for split in splits]
    return Records.from_columns(
        [p for part in parts for p in part.path],
        np.concatenate([part.pid for part in parts]),
        np.concatenate([part.camid for part in parts]),
        split=np.repeat(splits, [len(part) for part in parts]),
    )


def _images_below(folder: Path) -> list[str]:
    """Paths of all images below `folder`, sorted."""
    found = [os.path.join(at, name) for at, _, names in os.walk(folder) for name in names]
    return sorted(path for path in found if path.lower().endswith(_IMAGES))

"""Identity seeking from image files to an annotation file that pre-training reads."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from reidzoo._files import atomic
from reidzoo._logging import get_logger, rank_from_env
from reidzoo.data import Records, ReIDDataset, load_dataset
from reidzoo.errors import ConfigError, DataError
from reidzoo.eval.features import extract_features
from reidzoo.training.labels.seeking import Seeking, seek
from reidzoo.training.labels.seeking_calibration import Thresholds, calibrate_thresholds
from reidzoo.training.labels.seeking_config import SeekConfig

_logger = get_logger(__name__)

ANNOTATIONS, IMAGES, REPORT = "cional_annos.json", "images", "seek.json"


@dataclass(frozen=True, eq=False)
class SoughtData:
    """A data set with sought identities.

    Attributes:
        annotations: The file that ``cion_al:`` reads.
        found: Labels of the images in the order of the features, and the report.
        thresholds: Of the calibration, if there was one.
    """

    annotations: Path
    found: Seeking
    thresholds: Thresholds | None


def seek_in_data(
    model: nn.Module,
    data: str | ReIDDataset,
    output_dir: str | Path,
    *,
    config: SeekConfig | None = None,
    calibrate: str | ReIDDataset | None = None,
    overwrite: bool = False,
    flip: bool = False,
    **extract: Any,
) -> SoughtData | None:
    """Extract features of a tracked data set, seek the identities, and write them as CION-AL's annotation file.

    ``output_dir`` gets ``features.npy`` (float16; a stopped extraction goes on, a finished one is used again with other
    settings), ``cional_annos.json``, ``seek.json`` with the report, and ``images``, a link to the images, which stay
    where they are. Under torchrun the ranks share the extraction; the first one does the rest.

    Args:
        model: Maps (B, 3, H, W) to (B, D).
        data: With the columns `video` and `tracklet`: ``"tracklets:..."``, ``"luperson_nl:..."``, a CSV file, ...
        output_dir: Outside the data's folder.
        config: `SeekConfig`.
        calibrate: A labelled data set, whose training images give the distances (`calibrate_thresholds`).
        overwrite: Replace features of another model, or an annotation file that this function did not write.
        flip: Average the features with those of the mirror images.
        extract: Further arguments of `extract_features`, like `batch_size`.

    Returns:
        None on other ranks than the first.

    Raises:
        DataError: The data have no tracklets.
        ConfigError: `output_dir` lies in the data's folder, or holds something else.
    """
    config, out = config or SeekConfig(), Path(output_dir).expanduser().absolute()
    data = load_dataset(data)
    records = tracked_records(data)
    base = _base(data, records)
    _check_output(out, base, overwrite)
    options = {**extract, "flip": flip, "overwrite": overwrite, "dtype": "float16"}
    features = extract_features(model, records, out=out / "features.npy", **options)
    thresholds = None
    if calibrate is not None:
        labelled = load_dataset(calibrate).train
        clean = extract_features(model, labelled, out=out / "calibration.npy", **options)
        if rank_from_env() == 0:
            thresholds = calibrate_thresholds(
                clean, labelled.pid, labelled.camid, window=config.window, tracklets=_count_tracklets(records)
            )
            config = thresholds.apply(config)
            _logger.info("Calibrated: %s.", thresholds)
    if rank_from_env() != 0:
        return None
    columns = records.extras
    found = seek(
        features, columns["video"], columns["tracklet"], frame_ids=columns.get("frame"), config=config,
        device=extract.get("device", "auto"),
    )  # fmt: skip
    _write(out, base, records, found, thresholds)
    return SoughtData(out / ANNOTATIONS, found, thresholds)


def _count_tracklets(records: Records) -> int:
    """Of sorted records."""
    video, tracklet = records.extras["video"], records.extras["tracklet"]
    return int(((np.diff(video) != 0) | (np.diff(tracklet) != 0)).sum()) + 1


def tracked_records(data: ReIDDataset) -> Records:
    """Return the training images in the order of videos, tracklets and frames, so that tracklets are consecutive.

    Raises:
        DataError: There are no columns `video` and `tracklet`.
    """
    records = data.train
    missing = [name for name in ("video", "tracklet") if name not in records.extras]
    if missing or not len(records):
        what = f"no column {' and no column '.join(missing)}" if missing else "no training image"
        raise DataError(
            f"{data.name} at {data.root} has {what}; seeking starts from a tracker's output. Expected tracklets:FOLDER "
            "with FOLDER/<video>/<tracklet>/<image>, luperson_nl:FOLDER, or csv:FILE with these columns of integers."
        )
    columns = [records.extras[name] for name in ("frame", "tracklet", "video") if name in records.extras]
    order = np.lexsort(columns)
    return records if np.array_equal(order, np.arange(len(order))) else records.select(order)


def _base(data: ReIDDataset, records: Records) -> Path:
    """The folder that all images are in."""
    base = str(data.root if data.root.is_dir() else data.root.parent)
    if all(path.startswith(base + os.sep) for path in records.path):
        return Path(base)
    return Path(os.path.commonpath([os.path.dirname(path) for path in records.path]))


def _check_output(out: Path, base: Path, overwrite: bool) -> None:
    if out.resolve().is_relative_to(base.resolve()):
        raise ConfigError(f"{out} lies in the folder of the images, {base}. Give OUT outside of it.")
    ours = (out / REPORT).exists() or overwrite
    if (out / ANNOTATIONS).exists() and not ours:
        raise ConfigError(f"{out / ANNOTATIONS} is not of reidzoo's making. Give another folder, or say overwrite.")
    link = out / IMAGES
    if link.exists() and not link.is_symlink():
        raise ConfigError(f"{link} exists and is no link, but a link to {base} belongs there. Give another folder.")


def _write(out: Path, base: Path, records: Records, found: Seeking, thresholds: Thresholds | None) -> None:
    """Write the link, the annotations (by id, then in the order of the videos) and the report."""
    link = out / IMAGES
    link.unlink(missing_ok=True)
    link.symlink_to(base.resolve(), target_is_directory=True)
    names = [name for name in ("video", "tracklet", "frame") if name in records.extras]
    order = np.flatnonzero(found.labels >= 0)
    order = order[np.argsort(found.labels[order], kind="stable")]
    skip = len(str(base)) + 1
    with atomic(out / ANNOTATIONS) as temporary, temporary.open("w", encoding="utf-8") as file:
        separator = "[\n"
        for row in order.tolist():
            path = records.path[row][skip:].replace(os.sep, "/")
            entry = {"id": int(found.labels[row]), "file_path": f"{IMAGES}/{path}"}
            entry |= {name: int(records.extras[name][row]) for name in names}
            file.write(separator + json.dumps(entry))
            separator = ",\n"
        file.write("\n]\n" if len(order) else "[]\n")
    about = {"images": str(base), "calibration": thresholds.to_dict() if thresholds else None}
    with atomic(out / REPORT) as temporary:
        temporary.write_text(json.dumps({**about, **found.report.to_dict()}, indent=1) + "\n", "utf-8")

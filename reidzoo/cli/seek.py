"""`reidzoo seek`."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from reidzoo._logging import get_logger
from reidzoo.cli._flags import add_config_flags, typed_settings
from reidzoo.cli._model import add_inference_arguments, inference_options, load_model
from reidzoo.cli._table import pairs, table
from reidzoo.training.labels.seeking_config import SeekConfig

_logger = get_logger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument(
        "data",
        metavar="DATA",
        help="a tracker's images: FOLDER with <video>/<tracklet>/<image> in it, luperson_nl:FOLDER, or csv:FILE with "
        "the columns video and tracklet",
    )
    parser.add_argument(
        "out", metavar="OUT", type=Path, help="folder for cional_annos.json, features.npy and seek.json"
    )
    parser.add_argument(
        "--model",
        metavar="MODEL",
        required=True,
        help="extracts the features: a name that `reidzoo models` lists, timm/NAME, or the folder or file of a run",
    )
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--weights", metavar="FILE", type=Path, help="take these weights (.safetensors or .pth)")
    weights.add_argument("--pretrained", action="store_true", help="take the published weights, if you have them")
    parser.add_argument(
        "--calibrate",
        metavar="DATA",
        help="choose sigma_cst, sigma_drm and max_radius for this model from a labelled data set's training images",
    )
    add_config_flags(parser, SeekConfig, "seeking")
    add_inference_arguments(parser, views=False)
    parser.add_argument(
        "--flip", action="store_true", help="average the features of each image and its mirror image"
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Seek, write the annotations, and print what every stage did."""
    data = f"tracklets:{args.data}" if Path(args.data).expanduser().is_dir() else args.data
    config = SeekConfig(**typed_settings(args, SeekConfig))
    from reidzoo.training.labels.seeking_data import seek_in_data

    model = load_model(args, args.img_size)
    sought = seek_in_data(model, data, args.out, config=config, calibrate=args.calibrate, **inference_options(args))
    if sought is None:
        return 0
    if args.calibrate is None and not {"sigma_cst", "sigma_drm"} & vars(args).keys():
        _logger.info("The distances are the paper's, for its own extractor; --calibrate DATA fits them to this model.")
    report = sought.found.report
    print(table(report.HEADER, report.rows()))
    print()
    print(pairs(report.lines()))
    following = ["reidzoo", "pretrain", "MODEL", f"cion_al:{args.out}", "--output-dir", "DIR"]
    print(f"\nlabels  {sought.annotations}\nnext    {shlex.join(following)}")
    return 0

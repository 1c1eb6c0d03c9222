"""`reidzoo cfs`."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

import numpy as np

from reidzoo._logging import rank_from_env
from reidzoo.cli._model import add_inference_arguments, inference_options, model_name
from reidzoo.cli._table import table
from reidzoo.cli._train import DATA_HELP
from reidzoo.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("data", metavar="DATA", help=f"the large set, such as luperson:FOLDER; {DATA_HELP}")
    parser.add_argument(
        "out", metavar="OUT", type=Path, help="folder for cfs.npz (names, scores) and CFS_list.pkl, .json, .txt"
    )
    parser.add_argument(
        "--source", metavar="MODEL", required=True, help="a network that was pre-trained on such images: a run's folder"
    )
    parser.add_argument(
        "--target", metavar="MODEL", required=True, help="the same network after fine-tuning on the target domain"
    )
    add_inference_arguments(parser, views=False)


def run(args: argparse.Namespace) -> int:
    """Score all training images, write the list, and print what the scores are like and what to type next."""
    source, target = model_name(args.source), model_name(args.target)
    _check_folder(args)
    from reidzoo.data import load_dataset
    from reidzoo.data.ranked_list import training_names
    from reidzoo.training.labels.cfs import cfs_scores, write_ranking

    data = load_dataset(args.data)
    scores = cfs_scores(source, target, data, out=args.out / "cfs.npy", **inference_options(args))
    if rank_from_env() != 0:
        return 0
    values, *lists = write_ranking(args.out, training_names(data), scores)
    quartiles = np.percentile(scores, (0, 25, 50, 75, 100))
    print(
        table(
            ["images", "lowest", "25 %", "median", "75 %", "highest"], [[len(scores), *map("{:.4f}".format, quartiles)]]
        )
    )
    following = ["reidzoo", "pretrain", "MODEL", args.data, "--ranked-list", str(lists[0]), "--data-fraction", "0.5"]
    print(f"\nscores  {values}")
    print(f"lists   {', '.join(str(file) for file in lists)}   (best first)")
    print(f"next    {shlex.join([*following, '--output-dir', 'DIR'])}")
    return 0


def _check_folder(args: argparse.Namespace) -> None:
    """Protect a list that somebody else made: a LUPerson folder may hold the published one."""
    lists = sorted(file.name for file in args.out.glob("CFS_list.*"))
    if lists and not args.overwrite and not (args.out / "cfs.json").exists():
        raise ConfigError(
            f"{args.out} holds {', '.join(lists)} from elsewhere. Choose another folder for OUT, or replace the list: "
            "--overwrite"
        )

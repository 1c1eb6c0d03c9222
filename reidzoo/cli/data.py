"""`reidzoo data`: list, check, synth."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

import numpy as np

from reidzoo import _env
from reidzoo.cli._parser import Parser
from reidzoo.data import ReIDDataset, list_datasets, load_dataset, write_synthetic

_SHOWN = 20


def add_arguments(parser: Parser) -> None:
    """Add the three commands and their flags."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="data_command", required=True)
    listing = commands.add_parser("list", help="known layouts, and what they look like on disk")
    listing.set_defaults(data_run=_list)

    check = commands.add_parser("check", help="count images, persons and cameras, and decode every image")
    check.add_argument("spec", metavar="DATA", help="market1501[:FOLDER], folder:FOLDER, csv:FILE, synthetic[:FOLDER]")
    check.set_defaults(data_run=_check)

    synth = commands.add_parser("synth", help="draw a data set of synthetic people")
    synth.add_argument("out", metavar="OUT", type=Path, help="folder to make")
    synth.add_argument("--identities", metavar="N", type=int, default=60, help="labelled people (default: 60)")
    synth.add_argument(
        "--layout", metavar="NAME", default="market1501", help="market1501 or folder (default: market1501)"
    )
    synth.add_argument("--cameras", metavar="N", type=int, default=6, help="cameras (default: 6)")
    synth.add_argument("--seed", metavar="N", type=int, default=0, help="decides every image (default: 0)")
    synth.add_argument("--workers", metavar="N", type=int, default=1, help="processes that draw (default: 1)")
    synth.set_defaults(data_run=_synth)


def run(args: argparse.Namespace) -> int:
    """Run one of the three."""
    code: int = args.data_run(args)
    return code


def _list(args: argparse.Namespace) -> int:
    for name in list_datasets():
        module = import_module(f"reidzoo.data.datasets.{name}")
        print(f"{name}: {(module.__doc__ or '').splitlines()[0]}\n{module.LAYOUT}\n")
    print(f"A data set without a folder is looked for below {_env.data_root().absolute()} (REIDZOO_DATA).")
    return 0


def _check(args: argparse.Namespace) -> int:
    from reidzoo.data.loaders import check_images

    data = load_dataset(args.spec)
    print(data.summary())
    problems = _labels(data)
    for split in ("train", "query", "gallery"):
        records = getattr(data, split)
        bad = check_images(records, desc=f"Decoding {split}") if len(records) else []
        problems += [f"{split}: {records.path[i]}: {reason}" for i, reason in bad[:_SHOWN]]
        if len(bad) > _SHOWN:
            problems.append(f"{split}: and {len(bad) - _SHOWN} more images that cannot be decoded")
    print("\n" + ("\n".join(problems) if problems else "All images can be decoded."))
    return 1 if problems else 0


def _labels(data: ReIDDataset) -> list[str]:
    """What would make training or evaluation fail, or lie."""
    found = []
    lost = np.setdiff1d(data.query.pid, data.gallery.pid)
    if len(lost) and len(data.gallery):
        found.append(f"query: {len(lost)} of {data.query.num_pids} persons are not in the gallery, such as {lost[0]}")
    seen = np.intersect1d(data.train.pid, data.query.pid)
    if len(seen):
        found.append(f"train: {len(seen)} persons are also in the query images, such as {seen[0]}: results would lie")
    return found


def _synth(args: argparse.Namespace) -> int:
    root = write_synthetic(
        args.out,
        identities=args.identities,
        layout=args.layout,
        cameras=args.cameras,
        seed=args.seed,
        workers=args.workers,
    )
    spec = f"{'synthetic' if args.layout == 'market1501' else args.layout}:{root}"
    print(load_dataset(spec).summary())
    print(f"\nuse it as  {spec}")
    return 0

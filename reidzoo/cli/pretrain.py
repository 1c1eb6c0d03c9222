"""`reidzoo pretrain`."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from reidzoo.cli import _train
from reidzoo.cli._flags import show
from reidzoo.cli._model import chosen_model
from reidzoo.cli._parser import Parser
from reidzoo.training.methods import FINETUNE, PRETRAIN


def add_arguments(parser: Parser) -> None:
    """Add the command's flags; those of the settings come from the method's config."""
    _train.add_train_arguments(parser, PRETRAIN, "cion")


def run(args: argparse.Namespace) -> int:
    """Pre-train, then print the result and how to fine-tune it."""
    config = _train.settings(args, PRETRAIN[args.method])
    from reidzoo.training.pretrain import pretrain

    model = chosen_model(args, config.img_size)
    result = pretrain(
        model, args.data, method=args.method, recipe=args.recipe, output_dir=args.output_dir, config=asdict(config)
    )
    name = args.output_dir.name
    following = ["reidzoo", "finetune", str(args.output_dir), "market1501:/path/to/market1501"]
    if config.img_size != FINETUNE["transreid"].config().img_size:
        following += ["--img-size", show(config.img_size)]
    _train.report(result, args, [*following, "--output-dir", str(args.output_dir.with_name(f"{name}-market"))])
    return 0

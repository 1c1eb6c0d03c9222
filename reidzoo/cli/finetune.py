"""`reidzoo finetune`."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from reidzoo.cli import _train
from reidzoo.cli._model import chosen_model
from reidzoo.cli._parser import Parser
from reidzoo.training.methods import FINETUNE


def add_arguments(parser: Parser) -> None:
    """Add the command's flags; those of the settings come from the method's config."""
    _train.add_train_arguments(parser, FINETUNE, "transreid")


def run(args: argparse.Namespace) -> int:
    """Fine-tune, then print the result and how to evaluate it again."""
    config = _train.settings(args, FINETUNE[args.method])
    from reidzoo.training.finetune import finetune

    model = chosen_model(args, config.img_size)
    result = finetune(
        model, args.data, method=args.method, recipe=args.recipe, output_dir=args.output_dir, config=asdict(config)
    )
    _train.report(result, args, ["reidzoo", "evaluate", str(args.output_dir), args.data])
    return 0

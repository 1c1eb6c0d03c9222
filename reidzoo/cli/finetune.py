"""`reidzoo finetune`."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from reidzoo.cli import _train
from reidzoo.cli._model import chosen_model, model_name, say_if_random
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
    say_if_random(args, model_name(args.model))
    result = finetune(
        model, args.data, method=args.method, recipe=args.recipe, output_dir=args.output_dir, config=asdict(config)
    )
    run, data = str(args.output_dir), args.data
    following = ["evaluate", run, data] if result.metrics else ["extract", run, data, "features.npy"]
    _train.report(result, args, ["reidzoo", *following])
    return 0

"""The MODEL argument, the same for every command that takes a network."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reidzoo._logging import get_logger
from reidzoo.cli._flags import size
from reidzoo.errors import UnknownModelError, WeightsNotFoundError

if TYPE_CHECKING:
    from torch import nn

_logger = get_logger(__name__)


def add_model_argument(parser: argparse.ArgumentParser) -> None:
    """Add MODEL and where its weights come from."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a name that `reidzoo models` lists, timm/NAME, or the folder or file of a run, like runs/market",
    )
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--weights", metavar="FILE", type=Path, help="start from these weights (.safetensors or .pth)")
    weights.add_argument("--pretrained", action="store_true", help="start from the published weights, if you have them")


def add_inference_arguments(parser: argparse.ArgumentParser, *, views: bool = True) -> None:
    """Add how images go through a network; with `views`, also whether as mirror images and in several sizes."""
    parser.add_argument("--img-size", metavar="HxW", type=size, help="input size (default: the model's own)")
    parser.add_argument("--batch-size", metavar="N", type=int, default=64, help="images per forward pass (default: 64)")
    parser.add_argument("--num-workers", metavar="N", type=int, default=2, help="loader processes (default: 2)")
    if views:
        parser.add_argument(
            "--flip",
            action=argparse.BooleanOptionalAction,
            default=True,
            help="average the features of each image and its mirror image (default: yes)",
        )
        parser.add_argument(
            "--scales",
            metavar="X,...",
            type=_factors,
            default=(1.0,),
            help="average over these input scales (default: 1)",
        )
    parser.add_argument(
        "--precision", choices=("fp32", "bf16", "fp16", "auto"), default="fp32", help="arithmetic (default: fp32)"
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute (default: auto)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace feature files that hold something else")


def inference_options(args: argparse.Namespace) -> dict[str, Any]:
    """What was typed for `add_inference_arguments`, as `extract_features` takes it."""
    names = ("img_size", "batch_size", "num_workers", "flip", "scales", "precision", "device", "overwrite")
    return {name: getattr(args, name) for name in names if hasattr(args, name)}


def _factors(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not numbers with commas, like 1,1.5") from None


def model_name(text: str) -> str:
    """Turn MODEL into a name for `create_model`: a run's folder or file becomes ``local-dir:...``."""
    from reidzoo.models import model_info

    if text.startswith(("timm/", "hf-hub:", "local-dir:")):
        return text
    if not Path(text).exists():
        if os.sep in text:
            raise WeightsNotFoundError(f"There is no run folder or weights file {text}. Models by name: reidzoo models")
        return text
    try:
        return model_info(text).name  # the zoo's names win over a folder that happens to be called the same
    except UnknownModelError:
        return f"local-dir:{text}"


def load_model(args: argparse.Namespace, img_size: tuple[int, int] | None = None) -> nn.Module:
    """Build the network that the arguments describe; say so if its weights are random."""
    import torch

    from reidzoo.models import create_model

    name = model_name(args.model)
    torch.manual_seed(0)  # random weights are the same ones each time
    model = create_model(name, pretrained=args.pretrained, weights=args.weights, img_size=img_size)
    say_if_random(args, name)
    return model


def say_if_random(args: argparse.Namespace, name: str) -> None:
    """Warn about a network that has learned nothing yet, which is easily overlooked."""
    if not (args.pretrained or args.weights or name.startswith(("local-dir:", "hf-hub:"))):
        _logger.warning("%s has random weights: give --weights FILE, --pretrained, or a run's folder as MODEL.", name)


def chosen_model(args: argparse.Namespace, img_size: tuple[int, int]) -> str | nn.Module:
    """What to hand to `pretrain` and `finetune`: a name, or a network if weights were asked for."""
    return load_model(args, img_size) if args.pretrained or args.weights else model_name(args.model)

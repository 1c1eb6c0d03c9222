"""What `pretrain` and `finetune` share: flags from the method's config, and the report at the end."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reidzoo._registry import Registry
from reidzoo.cli._flags import add_config_flags, typed_settings
from reidzoo.cli._model import add_model_argument
from reidzoo.cli._parser import Parser
from reidzoo.cli._table import table
from reidzoo.errors import ConfigError
from reidzoo.training import recipes
from reidzoo.training.configs import make_config
from reidzoo.training.methods import MethodInfo

if TYPE_CHECKING:
    from reidzoo.training._run import TrainResult

DATA_HELP = "market1501[:FOLDER], folder:FOLDER (one folder per person), csv:FILE or synthetic[:FOLDER]"


def add_train_arguments(parser: Parser, methods: Registry[MethodInfo], default: str) -> None:
    """Add MODEL, DATA and the run's flags; the settings follow once the method is known."""
    parser.usage = "%(prog)s MODEL DATA --output-dir DIR [--method NAME] [settings]"
    add_model_argument(parser)
    parser.add_argument("data", metavar="DATA", help=DATA_HELP)
    parser.add_argument(
        "--output-dir", metavar="DIR", type=Path, required=True, help="run folder; a stopped run in it goes on"
    )
    about = "; ".join(f"{name}: {methods[name].summary}" for name in methods)
    parser.add_argument("--method", metavar="NAME", default=default, help=f"{about} (default: {default})")
    parser.add_argument(
        "--recipe", metavar="NAME", help="published settings that `reidzoo recipes list` names; --config wins over them"
    )
    parser.add_argument(
        "--config", metavar="FILE", type=Path, help="settings as JSON, or a run's config.json; flags win over it"
    )

    def add_settings(words: list[str]) -> None:
        name = _method(words, methods[default].stage) or default
        parser.set_defaults(method=name)
        add_config_flags(parser, methods[name].config, name)

    parser.before_parsing = add_settings


def settings(args: argparse.Namespace, info: MethodInfo) -> Any:
    """The run's config: defaults, then ``--recipe``, then ``--config``, then flags."""
    base = {**(recipes.get(args.recipe).settings if args.recipe else {}), **(_read_config(args) or {})}
    return make_config(info.config, base, typed_settings(args, info.config))


def report(result: TrainResult, args: argparse.Namespace, next_command: list[str]) -> None:
    """Print the run's numbers, its folder and what to type next."""
    from reidzoo.weights import read_metadata

    last = result.history[-1]
    seconds = sum(row["seconds"] for row in result.history)
    header = ["epochs", "steps", "minutes", "loss of first epoch", "of last", *result.metrics]
    row = [last["epoch"], last["step"], f"{seconds / 60:.1f}"]
    row += [f"{result.history[0]['loss']:.4f}", f"{last['loss']:.4f}"]
    row += [f"{100 * value:.1f}" for value in result.metrics.values()]
    print(table(header, [row]))
    if aim := getattr(getattr(result.model, "backbone", result.model), "published", None):
        print(f"\npublished  mAP {100 * aim['mAP']:.1f}, Rank-1 {100 * aim['rank1']:.1f} ({aim['how']})")
    if result.best:
        of = read_metadata(result.best)
        print(f"\nbest    {result.best}   (mAP {100 * float(of['mAP']):.1f}, after epoch {of['epoch']})")
    print(f"\nfolder  {args.output_dir}   (weights, config.json, metrics.jsonl, curves.png)")
    print(f"next    {shlex.join(next_command)}")


def _method(words: list[str], stage: str) -> str | None:
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--method", nargs="?")
    first.add_argument("--recipe", nargs="?")
    typed = first.parse_known_args(words)[0]
    method: str | None = recipes.method_of(typed.recipe, typed.method, stage) if typed.recipe else typed.method
    return method


def _read_config(args: argparse.Namespace) -> dict[str, Any] | None:
    """Settings of ``--config``: a JSON object of them, or the ``config`` part of a run's config.json."""
    if args.config is None:
        return None
    try:
        content = json.loads(args.config.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise ConfigError(f"--config {args.config} is not JSON: {e}") from e
    if not isinstance(content, dict):
        raise ConfigError(f"--config {args.config} holds no JSON object of settings")
    if not isinstance(content.get("config"), dict):
        return content
    if content.get("method", args.method) != args.method:
        raise ConfigError(
            f"--config {args.config} is of method {content['method']!r}, this run of {args.method!r}. "
            f"Add --method {content['method']}, or use another file."
        )
    return dict(content["config"])

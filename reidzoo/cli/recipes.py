"""`reidzoo recipes`."""

from __future__ import annotations

import argparse
from dataclasses import fields

from reidzoo.cli._flags import show
from reidzoo.cli._parser import Parser
from reidzoo.cli._table import pairs, table
from reidzoo.errors import UnknownRecipeError, did_you_mean
from reidzoo.training import recipes
from reidzoo.training.recipes._recipe import PROVENANCE, Recipe


def add_arguments(parser: Parser) -> None:
    """Add the actions."""
    parser.usage = "%(prog)s list [PATTERN] | show NAME"
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    listing = actions.add_parser("list", help="all recipes, with where they come from")
    listing.add_argument("pattern", metavar="PATTERN", nargs="?", default="*", help="such as 'cion/resnet*'")
    listing.set_defaults(action_run=_list)
    one = actions.add_parser("show", help="one recipe, and the command that uses it")
    one.add_argument("name", metavar="NAME", help="a name that `reidzoo recipes list` prints")
    one.set_defaults(action_run=_show)


def run(args: argparse.Namespace) -> int:
    """Do what was asked for."""
    code: int = args.action_run(args)
    return code


def _list(args: argparse.Namespace) -> int:
    names = recipes.list(args.pattern)
    if not names:
        hint = did_you_mean(args.pattern, recipes.list()) or " Type: reidzoo recipes list"
        raise UnknownRecipeError(f"No recipe matches {args.pattern!r}.{hint}")
    rows = [(r.name, r.method, r.gpus, r.provenance, *_results(r), _settings(r)) for r in map(recipes.get, names)]
    header = ["recipe", "method", "GPUs", "provenance", "mAP", "Rank-1", "settings, where not the method's defaults"]
    print(table(header, rows))
    print("\n" + "\n".join(f"{word}: {meaning}" for word, meaning in PROVENANCE.items()))
    return 0


def _show(args: argparse.Namespace) -> int:
    recipe = recipes.get(args.name)
    facts = [("recipe", recipe.name), ("method", recipe.method), ("model", recipe.model), ("GPUs", recipe.gpus)]
    print(pairs([*facts, ("provenance", f"{recipe.provenance} ({PROVENANCE[recipe.provenance]})")]))
    print(f"{'source':<10}  {recipe.source}\n")
    if recipe.published is not None:
        print(f"published on {recipe.data}: {recipe.published}\n")
    config = recipe.info.config(**recipe.settings)
    rows = [
        (f.name, show(getattr(config, f.name)), "recipe" if f.name in recipe.settings else None) for f in fields(config)
    ]
    print(table(["setting", "value", "from"], rows))
    start = f"{recipe.model} DATA" if recipe.stage == "pretrain" else f"{recipe.model} {recipe.data} --pretrained"
    devices = f" --devices {recipe.gpus}" if recipe.gpus > 1 else ""
    print(f"\nreidzoo {recipe.stage} {start} --recipe {recipe.name}{devices} --output-dir DIR")
    return 0


def _results(recipe: Recipe) -> tuple[str | None, str | None]:
    """The published mAP and Rank-1 that it aims at, in percent."""
    target = recipe.published
    return (f"{100 * target.mAP:.1f}", f"{100 * target.rank1:.1f}") if target else (None, None)


def _settings(recipe: Recipe) -> str:
    defaults = recipe.info.config()
    changed = {name: value for name, value in recipe.settings.items() if value != getattr(defaults, name)}
    return " ".join(f"{name}={show(value)}" for name, value in changed.items()) or "-"

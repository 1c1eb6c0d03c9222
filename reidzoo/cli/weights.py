"""`reidzoo weights`: import, list, path, verify, export, remove."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from reidzoo._logging import progress
from reidzoo.cli._parser import Parser
from reidzoo.cli._table import table
from reidzoo.errors import CheckpointError, WeightsNotFoundError
from reidzoo.models import model_info
from reidzoo.weights import store
from reidzoo.weights.store import Entry


def add_arguments(parser: Parser) -> None:
    """Add the commands and their flags."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="weights_command", required=True)

    command = commands.add_parser("import", help="put released checkpoint files into the store")
    command.add_argument("path", metavar="PATH", type=Path, help="a file as it was downloaded, or a folder of them")
    command.add_argument("--name", metavar="NAME", help="the backbone, where the file alone does not tell")
    command.add_argument("--link", action="store_true", help="convert nothing: register the file and read it in place")
    command.set_defaults(weights_run=_import)

    command = commands.add_parser("list", help="what is in the store")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(weights_run=_list)

    command = commands.add_parser("path", help="print the path of a backbone's weights")
    command.add_argument("name", metavar="NAME", help="a name that `reidzoo models` lists")
    command.set_defaults(weights_run=_path)

    command = commands.add_parser("verify", help="compare checksums with those of the import")
    command.add_argument("names", metavar="NAME", nargs="*", help="backbones (default: all in the store)")
    command.set_defaults(weights_run=_verify)

    command = commands.add_parser("export", help="write weights in the layout of the official files")
    command.add_argument("model", metavar="NAME", help="a backbone in the store, or the folder or file of a run")
    command.add_argument("out", metavar="OUT", type=Path, help="file to write, such as r50.pth")
    command.add_argument(
        "--layout",
        choices=("official", "official-training"),
        default="official",
        help="official: the backbone; official-training: all of a pre-training run, to go on with the original code "
        "(default: official)",
    )
    command.set_defaults(weights_run=_export)

    command = commands.add_parser("remove", help="delete a backbone's weights from the store")
    command.add_argument("name", metavar="NAME", help="a name that `reidzoo weights list` shows")
    command.set_defaults(weights_run=_remove)


def run(args: argparse.Namespace) -> int:
    """Run one of them."""
    code: int = args.weights_run(args)
    return code


def _import(args: argparse.Namespace) -> int:
    from reidzoo.weights import import_official

    print(_table(import_official(args.path, name=args.name, link=args.link)))
    return 0


def _list(args: argparse.Namespace) -> int:
    entries = store.entries()
    if args.json:
        print(json.dumps([{**asdict(e), "path": str(e.path)} for e in entries], indent=2))
    elif entries:
        print(_table(entries))
    else:
        print(f"The store {store.folder()} is empty. Put released files into it: reidzoo weights import PATH")
    return 0


def _path(args: argparse.Namespace) -> int:
    print(_entry(args.name).path)
    return 0


def _verify(args: argparse.Namespace) -> int:
    entries = [_entry(name) for name in args.names] if args.names else store.entries()
    problems = []
    for entry in progress(entries, desc="Verifying", unit="file"):
        try:
            store.verify(entry)
        except CheckpointError as e:
            problems.append(str(e))
    print("\n".join([*problems, f"{len(entries) - len(problems)} of {len(entries)} are as they were imported."]))
    return 1 if problems else 0


def _export(args: argparse.Namespace) -> int:
    from reidzoo.cli._model import model_name
    from reidzoo.models import create_model
    from reidzoo.weights import export_official, read_metadata
    from reidzoo.weights._saved import origin

    if args.layout == "official-training":
        from reidzoo.training._official import export_training

        print(export_training(Path(args.model), args.out))
        return 0
    name = model_name(args.model)
    source, _, file = name.partition(":")
    if source == "local-dir":
        print(export_official(create_model(name), args.out, **origin(read_metadata(file))))
    else:
        print(export_official(create_model(name, pretrained=source != "hf-hub"), args.out))
    return 0


def _remove(args: argparse.Namespace) -> int:
    store.remove(args.name)
    print(f"{model_info(args.name).name} was removed from {store.folder()}")
    return 0


def _entry(name: str) -> Entry:
    entry = store.find(name)
    if entry is None:
        raise WeightsNotFoundError(
            f"The store {store.folder()} has no weights of {model_info(name).name!r}. Type: reidzoo weights import FILE"
        )
    return entry


def _table(entries: list[Entry]) -> str:
    header = ["name", "MB", "licence", "kind", "source"]
    rows = [[e.name, f"{e.size / 1e6:.1f}", e.license, "link" if e.linked else "copy", e.source] for e in entries]
    return f"{table(header, rows)}\n\nin {store.folder()}"

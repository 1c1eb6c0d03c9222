"""`reidzoo data`: list, check, show, extract, synth."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path

from reidzoo import _env
from reidzoo.cli._parser import Parser
from reidzoo.cli._table import table
from reidzoo.data import dataset_info, list_datasets, load_dataset, write_synthetic
from reidzoo.data._layouts import LAYOUTS
from reidzoo.data.checks import CheckReport, Finding, check_dataset
from reidzoo.errors import ReidzooError

_SHOWN = 20  # findings of each kind
_DATA = (
    "what to read: NAME[@VARIANT][:FOLDER], like market1501:FOLDER, folder:FOLDER or csv:FILE; see reidzoo data list"
)


def add_arguments(parser: Parser) -> None:
    """Add the five commands and their flags."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="data_command", required=True)
    listing = commands.add_parser("list", help="known layouts, and what they look like on disk")
    listing.set_defaults(data_run=_list)

    check = commands.add_parser("check", help="count images, persons and cameras, and look for what is wrong")
    check.add_argument("spec", metavar="DATA", help=_DATA)
    check.add_argument("--decode", action="store_true", help="decode every image, too")
    check.add_argument("--strict", action="store_true", help="exit with 1 on warnings, too")
    check.add_argument("--json", action="store_true", help="the report as JSON")
    check.set_defaults(data_run=_check)

    show = commands.add_parser("show", help="draw a few persons as a picture, one row each")
    show.add_argument("spec", metavar="DATA", help=_DATA)
    show.add_argument("out", metavar="OUT", type=Path, help="picture to write, .png or .jpg")
    show.add_argument("--identities", metavar="N", type=int, default=8, help="persons (default: 8)")
    show.add_argument("--images", metavar="N", type=int, default=10, help="images of each (default: 10)")
    show.set_defaults(data_run=_show)

    extract = commands.add_parser("extract", help="unpack a downloaded archive, whole or not at all")
    extract.add_argument("archive", metavar="ARCHIVE", type=Path, help="zip, tar, tar.gz, tar.bz2 or tar.xz file")
    extract.add_argument("out", metavar="OUT", type=Path, help="folder to make")
    extract.add_argument(
        "--max-gb", metavar="X", type=float, help="most to unpack (default: 20 times the archive, at least 1.07)"
    )
    extract.set_defaults(data_run=_extract)

    synth = commands.add_parser("synth", help="draw a data set of synthetic people")
    synth.add_argument("out", metavar="OUT", type=Path, help="folder to make")
    synth.add_argument("--identities", metavar="N", type=int, default=60, help="labelled people (default: 60)")
    synth.add_argument(
        "--layout", metavar="NAME", default="market1501", help=f"{', '.join(LAYOUTS)} (default: market1501)"
    )
    synth.add_argument("--cameras", metavar="N", type=int, help="cameras (default: 6, or as many as the layout has)")
    synth.add_argument("--seed", metavar="N", type=int, default=0, help="decides every image (default: 0)")
    synth.add_argument("--workers", metavar="N", type=int, default=1, help="processes that draw (default: 1)")
    synth.set_defaults(data_run=_synth)


def run(args: argparse.Namespace) -> int:
    """Run one of the five."""
    code: int = args.data_run(args)
    return code


def _list(args: argparse.Namespace) -> int:
    for name in list_datasets():
        info = dataset_info(name)
        variants = f" Variants: {', '.join(f'{name}@{v}' for v in info.variants)}." if info.variants else ""
        print(f"{name}: {info.about}{variants}\n{info.layout}\n")
    print(f"A data set without a folder is looked for below {_env.data_root().absolute()} (REIDZOO_DATA).")
    return 0


def _check(args: argparse.Namespace) -> int:
    try:
        report = check_dataset(args.spec, decode=args.decode)
    except ReidzooError as e:
        if not args.json:
            raise
        unread = {"severity": "error", "check": "read", "text": str(e), "paths": []}
        print(json.dumps({"spec": args.spec, "ok": False, "findings": [unread]}, indent=2))
        return 1
    if args.json:
        print(json.dumps({"spec": args.spec, **report.as_dict()}, indent=2))
    else:
        _say(_text(report))
    return 1 if not report.ok or (args.strict and report.findings) else 0


def _text(report: CheckReport) -> str:
    rows = [[split, *(f"{n:,}" for n in counts)] for split, counts in report.counts().items()]
    lines = [f"{report.data.name}  {report.data.root}", ""]
    lines += [table(["split", "images", "ids", "cameras", "junk", "distractors"], rows), ""]
    lines += [f"{finding.severity}: {finding.text}" for finding in _shorten(report.findings)]
    errors = sum(finding.severity == "error" for finding in report.findings)
    warnings = len(report.findings) - errors
    lines.append(f"{errors:,} error{'s' * (errors != 1)}, {warnings:,} warning{'s' * (warnings != 1)}.")
    if report.decoded:
        bad = any(finding.check == "image" for finding in report.findings)
        lines[-1] += "" if bad else " All images can be decoded."
    else:
        lines[-1] += " Images were not decoded: --decode does that."
    if not report.compared:
        lines[-1] += " So many files were not compared: --decode does that, too."
    return "\n".join(lines)


def _shorten(findings: Iterable[Finding]) -> list[Finding]:
    """At most `_SHOWN` findings of each check, and one that says how many more there are."""
    kinds: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        kinds.setdefault((finding.severity, finding.check), []).append(finding)
    short = []
    for found in kinds.values():
        short += found[:_SHOWN]
        if (more := len(found) - _SHOWN) > 0:
            short.append(Finding(found[0].severity, found[0].check, f"and {more:,} more of this kind: --json has all"))
    return short


def _show(args: argparse.Namespace) -> int:
    from reidzoo.data.contact_sheet import draw_contact_sheet

    _say(f"wrote {draw_contact_sheet(args.spec, args.out, identities=args.identities, images=args.images)}")
    return 0


def _extract(args: argparse.Namespace) -> int:
    from reidzoo.data.archives import extract_archive

    limit = None if args.max_gb is None else int(args.max_gb * 1e9)
    root = extract_archive(args.archive, args.out, max_bytes=limit)
    _say(f"unpacked to {root}, which holds {', '.join(sorted(p.name for p in root.iterdir())[:8])}")
    _say(f"next: reidzoo data check NAME:{root} (names: {', '.join(list_datasets())})")
    return 0


def _synth(args: argparse.Namespace) -> int:
    layout = LAYOUTS.get(args.layout)  # write_synthetic says which there are
    most = layout.max_cameras if layout else 6
    root = write_synthetic(
        args.out,
        identities=args.identities,
        layout=args.layout,
        cameras=min(6, most) if args.cameras is None else args.cameras,
        seed=args.seed,
        workers=args.workers,
    )
    name = layout.reader or args.layout if layout else args.layout
    # The drawn Market-1501 has a reader of its own, which knows its videos.
    spec = f"{'synthetic' if args.layout == 'market1501' else name}:{root}"
    print(load_dataset(spec).summary())
    print(f"\nuse it as  {spec}")
    return 0


def _say(text: str) -> None:
    """Print `text`, in which names of files need not be valid Unicode."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))

"""`reidzoo license`: show, accept, status."""

from __future__ import annotations

import argparse

from reidzoo.cli._parser import Parser
from reidzoo.cli._table import table
from reidzoo.errors import LicenseNotAcceptedError
from reidzoo.weights import licenses


def add_arguments(parser: Parser) -> None:
    """Add the three commands."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="license_command", required=True)
    for name, summary, function in (
        ("show", "print terms", _show),
        ("accept", "read terms and accept them", _accept),
        ("status", "what has been accepted on this machine", _status),
    ):
        command = commands.add_parser(name, help=summary)
        command.set_defaults(license_run=function)
        if name != "status":
            known = ", ".join(licenses.LICENSES)
            command.add_argument(
                "id", metavar="ID", nargs="?" if name == "show" else None, help=f"one of {known}", default=None
            )


def run(args: argparse.Namespace) -> int:
    """Run one of the three."""
    code: int = args.license_run(args)
    return code


def _show(args: argparse.Namespace) -> int:
    ids = [args.id] if args.id else list(licenses.LICENSES)
    print("\n\n\n".join(licenses.get(license_id).text() for license_id in ids))
    return 0


def _accept(args: argparse.Namespace) -> int:
    terms = licenses.get(args.id)
    print(terms.text())
    if done := licenses.accepted(args.id):
        print(f"\nThese terms were accepted here on {done.accepted_at[:10]}.")
        return 0
    try:
        answer = input("\nDo you have access under the agreement, and accept these terms? Type yes: ")
    except EOFError:
        raise LicenseNotAcceptedError(
            f"Nobody is there to accept the terms of {args.id!r}. For automation set the environment variable "
            f"REIDZOO_ACCEPT_LICENSE={args.id} where the terms have been read."
        ) from None
    if answer.strip().lower() not in ("yes", "y"):
        raise LicenseNotAcceptedError(f"The terms of {args.id!r} were not accepted: the answer was not yes.")
    licenses.accept(args.id, how="interactive")
    print(f"Accepted. The record is in {licenses.folder()}.")
    return 0


def _status(args: argparse.Namespace) -> int:
    rows = []
    for license_id in licenses.LICENSES:
        done = licenses.accepted(license_id)
        rows.append([license_id, done.accepted_at if done else None, done.how if done else None])
    print(table(["licence", "accepted", "how"], rows))
    return 0

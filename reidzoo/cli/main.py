"""The `reidzoo` command.

Exit codes: 0 done, 1 it failed and one line says why, 2 the command line is wrong, 130 interrupted by Ctrl-C.
Results go to stdout, everything else to stderr.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from reidzoo._version import __version__
from reidzoo.cli._parser import Parser
from reidzoo.errors import ReidzooError, did_you_mean

COMMANDS = {
    "models": "list the backbones with their sizes and published results",
    "info": "all that is known about one backbone",
    "weights": "the released weights on this machine: import, list, verify, export",
    "license": "terms of other people's weights and data: read, accept",
    "demo": "the whole job on drawn people: pre-train, fine-tune, evaluate",
    "data": "list, check or draw data sets",
    "cfs": "rank the images of a large set by how close they are to a target domain",
    "recipes": "published training settings by name: list, show",
    "seek": "find the identities in a tracker's output, to pre-train on",
    "pretrain": "pre-train a backbone on images grouped by person",
    "finetune": "fit a backbone to a data set with identity labels",
    "evaluate": "measure how well a network finds persons again (mAP, Rank-k, mINP)",
    "extract": "turn images into feature vectors",
    "search": "keep a gallery as an index, and find persons in it",
    "doctor": "versions, devices and folders: what to paste into a bug report",
}
_RESUMABLE = ("cfs", "demo", "seek", "pretrain", "finetune")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code.

    Args:
        argv: words after ``reidzoo``; by default those of this process.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        args = _parser(argv).parse_args(argv)
    except SystemExit as e:  # argparse has spoken: --help, --version or a usage error
        return int(e.code or 0)
    with _log_to_stderr():
        return _run(args.run, args)


def _parser(argv: list[str]) -> Parser:
    """The parser for `argv`: only the command that is called has its flags (and its imports)."""
    parser = Parser(
        prog="reidzoo",
        usage="reidzoo COMMAND ...",
        description="Person re-identification: backbones, pre-training, fine-tuning and evaluation by retrieval.",
        epilog="Start with: reidzoo demo. A command's flags: reidzoo COMMAND --help.",
    )
    parser.add_argument("--version", action="version", version=f"reidzoo {__version__}")
    called = next((word for word in argv if not word.startswith("-")), None)
    if called is not None and called not in COMMANDS:
        parser.error(f"there is no command {called!r}.{did_you_mean(called, COMMANDS)} Type: reidzoo --help")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True, prog="reidzoo")
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if name == called:
            module = import_module(f"reidzoo.cli.{name}")
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    return parser


def _run(run: Any, args: Any) -> int:
    debug = args.debug
    try:
        code: int = run(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        on = " The same command goes on where it stopped." if args.command in _RESUMABLE else ""
        _say(f"interrupted.{on}")
        return 130
    except BrokenPipeError:  # `reidzoo models | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ReidzooError, OSError) as e:
        if debug:
            raise
        _say(f"error: {e}{_advice(e, args.command)}")
        return 1
    except Exception as e:  # a bug: still one line, with the way to its traceback
        if debug:
            raise
        _say(f"error: unexpected {type(e).__name__}: {e} (type the command again with --debug to see where)")
        return 1


def _advice(error: Exception, command: str) -> str:
    """What to do about the one error of the system that anybody meets: a full disk."""
    if isinstance(error, ReidzooError) or os.strerror(errno.ENOSPC) not in str(error):
        return ""
    again = "the same command goes on where it stopped" if command in _RESUMABLE else "then type the command again"
    return f". Free some; {again}."


def _say(text: str) -> None:
    print(f"reidzoo: {text}", file=sys.stderr)


@contextmanager
def _log_to_stderr() -> Iterator[None]:
    """Show the library's messages from INFO on while a command runs."""
    logger, handler = logging.getLogger("reidzoo"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("reidzoo: %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)

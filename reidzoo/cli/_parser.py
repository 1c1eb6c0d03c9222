"""argparse with what a user misses in it: the closest flag, and flags that depend on other flags."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from reidzoo.errors import ReidzooError, did_you_mean


class Parser(argparse.ArgumentParser):
    """An argument parser that names the closest flag to an unknown one, before it complains about anything else.

    Attributes:
        before_parsing: called with the words to parse, to add flags that depend on them.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_HelpFormatter, **kwargs)
        self.before_parsing: Callable[[list[str]], None] | None = None
        self.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show errors with traceback")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse; see `argparse.ArgumentParser.parse_args`."""
        return super().parse_args(args, namespace or argparse.Namespace(debug=False))

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, after `before_parsing` and a look at the flags."""
        words = list(sys.argv[1:] if args is None else args)
        if self.before_parsing is not None:
            try:
                self.before_parsing(words)
            except ReidzooError as e:
                self.error(str(e))
        self._check_flags(words)
        return super().parse_known_args(words, namespace)

    def _check_flags(self, words: Sequence[str]) -> None:
        known = [flag.removeprefix("--") for flag in self._option_string_actions if flag.startswith("--")]
        for word in words:
            flag = word.partition("=")[0]
            if flag == "--" or (self._subparsers is not None and not flag.startswith("-")):
                return  # from here on, words are arguments, or another parser's
            name = flag.removeprefix("--")
            if name != flag and name not in known:
                close = re.sub(r"'(\S+)'", r"--\1", did_you_mean(name, known))
                self.error(f"there is no flag {flag}.{close} Type: {self.prog} --help")

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the command line, and leave with exit code 2."""
        self.exit(2, f"{self.format_usage()}reidzoo: error: {message}\n")


class _HelpFormatter(argparse.HelpFormatter):
    """Wider columns than argparse's, and no reflowing surprises in between."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34)

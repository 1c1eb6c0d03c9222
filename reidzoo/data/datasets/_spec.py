"""Data sets as texts: ``name``, ``name@variant``, ``name:/path``, and sums of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable


def summands(spec: str, names: Iterable[str]) -> list[str]:
    """Split ``"a+b@variant+c:/path"`` into its data sets.

    A path may contain ``+``: behind a colon, a sum goes on only where the name of a data set follows, and not where the
    path, as far as it is written, is there.

    Args:
        spec: what the user wrote.
        names: names of the data sets.
    """
    head, colon, path = spec.partition(":")
    if os.path.isabs(spec) or "/" in head or os.sep in head:
        return [spec]
    *found, last = head.split("+")
    follows = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    pieces = re.split(rf"\+(?=(?:{follows})(?:[@:+]|$))", f"{last}{colon}{path}")
    while pieces:
        length = next((n for n in range(len(pieces), 1, -1) if _is_there("+".join(pieces[:n]))), 1)
        found.append("+".join(pieces[:length]))
        pieces = pieces[length:]
    return found


def _is_there(spec: str) -> bool:
    path = spec.partition(":")[2]
    return bool(path) and os.path.exists(os.path.expanduser(path))

"""Are the values of a settings class of the types that its fields announce?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, get_args, get_origin, get_type_hints

_KINDS = {bool: "True or False", int: "a whole number", float: "a finite number", str: "a text"}


def wrong_types(config: Any) -> Iterator[str]:
    """Say of each field of the dataclass instance `config` that holds something else than announced what it expects."""
    hints = get_type_hints(type(config))
    for f in fields(config):
        value, hint = getattr(config, f.name), hints[f.name]
        if not _fits(value, hint):
            like = "" if hint in (bool, str) else f" like {f.default!r}"
            yield f"{f.name} is {value!r}, expected {_KINDS.get(hint, 'something')}{like}"


def _fits(value: Any, hint: Any) -> bool:
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if isinstance(hint, type) and hint in _KINDS:
        return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
    kinds = get_args(hint)
    if get_origin(hint) is not tuple:
        return any(_fits(value, kind) for kind in kinds)  # a union
    if not isinstance(value, (tuple, list)):
        return False
    kinds = kinds[:1] * len(value) if kinds[-1] is Ellipsis else kinds
    return len(value) == len(kinds) and all(map(_fits, value, kinds))

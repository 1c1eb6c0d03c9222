"""The few lines behind the three registries (models, data sets, methods): names to things, with good errors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import Generic, TypeVar

from reidzoo.errors import ReidzooError, did_you_mean

T = TypeVar("T")


class Registry(Generic[T]):
    """Things by name. An unknown name raises `error` with the closest names; a name is given once."""

    def __init__(self, kind: str, error: type[ReidzooError], hint: str = "") -> None:
        self._kind, self._error, self._hint = kind, error, hint
        self._items: dict[str, T] = {}

    def add(self, name: str, item: T) -> T:
        """Register `item` as `name`."""
        if name in self._items:
            raise ValueError(f"{self._kind} {name!r} is registered already")
        self._items[name] = item
        return item

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator form of `add`."""
        return lambda item: self.add(name, item)

    def __getitem__(self, name: str) -> T:
        try:
            return self._items[name]
        except KeyError:
            known = f" Known: {', '.join(self.names()[:40])}." if len(self._items) < 100 else ""
            raise self._error(
                f"There is no {self._kind} {name!r}.{did_you_mean(name, self._items)}{known}"
                f"{' ' + self._hint if self._hint else ''}"
            ) from None

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def names(self, pattern: str = "*") -> list[str]:
        """Names that match the shell pattern, resnet18 before resnet101."""
        return sorted((n for n in self._items if fnmatchcase(n, pattern)), key=natural_key)


def natural_key(name: str) -> list[tuple[bool, int, str]]:
    """Sort key under which numbers inside names compare as numbers."""
    return [(not p.isdigit(), int(p) if p.isdigit() else 0, p) for p in re.split(r"(\d+)", name) if p]

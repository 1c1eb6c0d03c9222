"""The tables of this package."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from importlib.resources import files


def rows(name: str) -> Iterator[dict[str, str]]:
    """Yield the lines of the table `name`, by column."""
    text = files("reidzoo.training.recipes").joinpath(name).read_text(encoding="utf-8")
    yield from csv.DictReader(text.splitlines())

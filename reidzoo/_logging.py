"""One logger, one progress bar. Both speak on rank 0 only."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable
from typing import Any, TypeVar

from tqdm import tqdm

from reidzoo import _env

T = TypeVar("T")


class _RankZero(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR or rank_from_env() == 0


def rank_from_env() -> int:
    """Rank of this process as its launcher announced it (0 for a single process)."""
    return int(os.environ.get("RANK", "0"))


def get_logger(name: str) -> logging.Logger:
    """Return the module logger `name`; it never touches the root logger's handlers."""
    logger = logging.getLogger(name)
    if not any(isinstance(f, _RankZero) for f in logger.filters):
        logger.addFilter(_RankZero())
    return logger


def progress(iterable: Iterable[T] | None = None, *, desc: str, total: int | None = None, **kwargs: Any) -> tqdm[T]:
    """Wrap `iterable` (or count by hand with ``update``) in the one progress bar of the library.

    Drawn on stderr, on rank 0, at a terminal; ``REIDZOO_PROGRESS=0`` or ``=1`` overrides the terminal check.
    """
    wanted = _env.progress()
    show = (sys.stderr.isatty() if wanted is None else wanted) and rank_from_env() == 0
    return tqdm(iterable, desc=desc, total=total, disable=not show, dynamic_ncols=True, smoothing=0.1, **kwargs)

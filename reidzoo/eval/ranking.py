"""Ranking lists as a picture: what the model found, right and wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from reidzoo._files import atomic
from reidzoo.data.loaders import read_image
from reidzoo.data.records import Records
from reidzoo.errors import DataError

_RIGHT, _WRONG, _QUERY = "#2e9e4f", "#d43d3d", "#333333"
_INK, _SOFT = "#222222", "#666666"
_W, _H = 96, 192  # an image
_FRAME, _GAP, _CAPTION, _MARGIN, _TITLE, _HEAD = 4, 12, 34, 18, 40, 30


def draw_ranking(
    query: Records,
    gallery: Records,
    distances: NDArray[np.floating],
    indices: NDArray[np.int64],
    path: str | Path,
    *,
    top: int = 10,
    title: str = "",
) -> Path:
    """Draw one row per query: the query, then the `top` nearest gallery images, green if right and red if wrong.

    Gallery images that scoring ignores (the query's identity under the query's camera, and identity -1) are left out,
    so ask `search` for more neighbours than `top`.

    Args:
        query: The queries to draw, say ``dataset.query.select([0, 1, 2])``.
        gallery: The whole gallery.
        distances: (len(query), k), ascending, as from `search`.
        indices: (len(query), k) rows of `gallery`, as from `search`.
        path: The PNG to write, whole or not at all.
        top: Gallery images per row.
        title: Over the picture.

    Returns:
        `path`.

    Raises:
        DataError: No query, or `distances` and `indices` do not fit `query`.
        CorruptImageError: An image cannot be decoded.
    """
    if len(query) == 0 or not len(query) == len(distances) == len(indices):
        raise DataError(
            f"{len(query)} queries with {len(distances)} rows of distances and {len(indices)} of indices; expected the "
            "same number of each, at least one."
        )
    head = _HEAD + (_TITLE if title else 0)
    row_height = _H + 2 * _FRAME + _CAPTION + _GAP
    size = _column(top + 1) + _MARGIN - _GAP, head + len(query) * row_height + _MARGIN
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    if title:
        draw.text((_MARGIN, 16), title, _INK, ImageFont.load_default(19))
    for column in range(top + 1):
        text = "query" if column == 0 else str(column)
        draw.text((_column(column) + _FRAME + _W / 2, head - 6), text, _SOFT, ImageFont.load_default(13), anchor="ms")
    for row in range(len(query)):
        y = head + row * row_height
        pid, cam = query.pid[row], query.camid[row]
        _cell(picture, _column(0), y, query.path[row], _QUERY, f"id {pid}{_camera(cam)}", "")
        found = indices[row]
        same = gallery.pid[found] == pid
        junk = (gallery.pid[found] == -1) | (same & (gallery.camid[found] == cam) & (cam != -1))
        for column, k in enumerate(np.flatnonzero(~junk)[:top], start=1):
            g = found[k]
            caption = f"id {gallery.pid[g]}{_camera(gallery.camid[g])}"
            colour = _RIGHT if same[k] else _WRONG
            _cell(picture, _column(column), y, gallery.path[int(g)], colour, caption, f"{distances[row, k]:.3g}")
    path = Path(path)
    with atomic(path) as temporary:
        picture.save(temporary, "PNG")
    return path


def _column(column: int) -> int:
    """Left edge of a column; the query stands a little apart."""
    return _MARGIN + column * (_W + 2 * _FRAME + _GAP) + (_GAP if column else 0)


def _camera(camid: np.int64) -> str:
    return f"  cam {camid}" if camid != -1 else ""


def _cell(picture: Image.Image, x: int, y: int, path: str, colour: str, caption: str, below: str) -> None:
    draw = ImageDraw.Draw(picture)
    draw.rectangle([x, y, x + _W + 2 * _FRAME - 1, y + _H + 2 * _FRAME - 1], colour)
    picture.paste(read_image(path).resize((_W, _H), Image.Resampling.LANCZOS), (x + _FRAME, y + _FRAME))
    middle, bottom = x + _FRAME + _W / 2, y + _H + 2 * _FRAME
    draw.text((middle, bottom + 4), caption, _INK, ImageFont.load_default(12), anchor="mt")
    draw.text((middle, bottom + 19), below, _SOFT, ImageFont.load_default(12), anchor="mt")

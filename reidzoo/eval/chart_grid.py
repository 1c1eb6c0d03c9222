"""Two more small pictures as PNG, with Pillow alone: a matrix of numbers, and points of several kinds."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from reidzoo._files import atomic

_INK, _SOFT, _EMPTY = "#222222", "#666666", "#f3f3f3"
_LOW, _HIGH = (247, 251, 255), (8, 69, 148)  # colours of the least and the greatest value
_CELL, _CELL_HEIGHT, _SIDE, _HEAD, _EDGE = 46, 34, 84, 62, 18  # of the matrix, in units
_FIELD, _FRAME = 620, 24  # of the points
_FINE, _REDUCE = 4, 2  # pixels drawn per unit, and pixels averaged in the finished picture


def matrix_chart(
    values: ArrayLike,
    rows: Sequence[str],
    columns: Sequence[str],
    path: str | Path,
    *,
    xlabel: str = "",
    ylabel: str = "",
    form: str = ".0f",
) -> Path:
    """Draw a matrix as coloured cells with their values, and write it as a PNG, whole or not at all.

    Args:
        values: (R, C); cells that are not finite stay empty.
        rows: R names.
        columns: C names.
        path: The file to write.
        xlabel: Over the columns.
        ylabel: Over the names of the rows.
        form: How the values are written, a format specification.

    Returns:
        `path`.
    """
    cells = np.asarray(values, float)
    finite = cells[np.isfinite(cells)]
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 1.0)
    picture = _blank(_SIDE + _CELL * len(columns) + _EDGE, _HEAD + _CELL_HEIGHT * len(rows) + _EDGE)
    draw = ImageDraw.Draw(picture)
    _text(draw, _SIDE + _CELL * len(columns) / 2, 20, xlabel, _INK, 13, "ms")
    _text(draw, _SIDE - 10, _HEAD - 10, ylabel, _INK, 13, "rs")
    for c, name in enumerate(columns):
        _text(draw, _SIDE + _CELL * (c + 0.5), _HEAD - 10, name, _SOFT, 12, "ms")
    for r, name in enumerate(rows):
        y = _HEAD + _CELL_HEIGHT * r
        _text(draw, _SIDE - 10, y + _CELL_HEIGHT / 2, name, _SOFT, 12, "rm")
        for c, value in enumerate(cells[r]):
            x, share = _SIDE + _CELL * c, (value - low) / (high - low) if high > low else 0.5
            known = bool(np.isfinite(value))
            colour = _between(share) if known else _EMPTY
            draw.rectangle([_FINE * v for v in (x, y, x + _CELL - 1, y + _CELL_HEIGHT - 1)], colour)
            if known:
                ink = "white" if share > 0.55 else _INK
                _text(draw, x + _CELL / 2, y + _CELL_HEIGHT / 2, format(value, form), ink, 13, "mm")
    return _write(picture, path)


def scatter_chart(
    points: ArrayLike, labels: ArrayLike, path: str | Path, *, ringed: NDArray[np.bool_] | None = None
) -> Path:
    """Draw points in the plane, a colour and a shape per label, and write them as a PNG, whole or not at all.

    The axes have no numbers: both have the same scale, and that is all they say.

    Args:
        points: (N, 2).
        labels: (N,) names or numbers, written at the middle of their points.
        path: The file to write.
        ringed: (N,) points to draw larger, with a dark ring; None: none.

    Returns:
        `path`.
    """
    xy, kinds = np.asarray(points, float).reshape(-1, 2), np.asarray(labels)
    marked = np.zeros(len(xy), np.bool_) if ringed is None else ringed
    low, high = (xy.min(0), xy.max(0)) if len(xy) else (np.zeros(2), np.ones(2))
    scale = (_FIELD - 2 * _FRAME) / (float((high - low).max()) or 1.0)
    at = (xy - (low + high) / 2) * (scale, -scale) + _FIELD / 2
    picture = _blank(_FIELD, _FIELD)
    draw = ImageDraw.Draw(picture)
    names = np.unique(kinds)
    for k, name in enumerate(names):
        for (x, y), ring in zip(at[kinds == name], marked[kinds == name], strict=True):
            _point(draw, x, y, _colour(k, len(names)), k % 3, bool(ring))
    for name in names:
        x, y = np.median(at[kinds == name], axis=0)
        draw.text((x * _FINE, y * _FINE), str(name), _INK, _font(13), "mm", stroke_width=3 * _FINE, stroke_fill="white")
    return _write(picture, path)


def _point(draw: ImageDraw.ImageDraw, x: float, y: float, colour: str, shape: int, ring: bool) -> None:
    r = 6.5 if ring else 4.5
    corners = [(-1, -1), (1, -1), (1, 1), (-1, 1)] if shape == 1 else [(0, -1.2), (1.1, 0.9), (-1.1, 0.9)]
    outline, width = ("#222222", 2 * _FINE) if ring else ("white", _FINE)
    if shape == 0:
        draw.ellipse([_FINE * v for v in (x - r, y - r, x + r, y + r)], colour, outline, width)
    else:
        r *= 0.9
        draw.polygon([((x + r * a) * _FINE, (y + r * b) * _FINE) for a, b in corners], colour, outline, width)


def _colour(k: int, n: int) -> str:
    """Hues around the circle, every second one darker."""
    rgb = colorsys.hls_to_rgb(k / max(n, 1), (0.55, 0.38)[k % 2], 0.65)
    return "#" + "".join(f"{round(255 * v):02x}" for v in rgb)


def _between(share: float) -> tuple[int, int, int]:
    r, g, b = (round(a + (z - a) * share) for a, z in zip(_LOW, _HIGH, strict=True))
    return r, g, b


def _blank(width: float, height: float) -> Image.Image:
    return Image.new("RGB", (round(width * _FINE), round(height * _FINE)), "white")


def _text(draw: ImageDraw.ImageDraw, x: float, y: float, text: str, colour: str, size: int, anchor: str) -> None:
    draw.text((x * _FINE, y * _FINE), text, colour, _font(size), anchor=anchor)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size * _FINE)


def _write(picture: Image.Image, path: str | Path) -> Path:
    path = Path(path)
    small = picture.resize((picture.width // _REDUCE, picture.height // _REDUCE), Image.Resampling.LANCZOS)
    with atomic(path) as temporary:
        small.save(temporary, "PNG")
    return path

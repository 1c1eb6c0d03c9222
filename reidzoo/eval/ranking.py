"""Ranking lists as a picture: what the model found, right and wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from reidzoo._files import atomic
from reidzoo.data.loaders import read_image
from reidzoo.data.records import JUNK, NO_CAMERA, Records
from reidzoo.errors import DataError

_RIGHT, _WRONG, _QUERY, _IGNORED = "#2e9e4f", "#d43d3d", "#333333", "#c9c9c9"
_INK, _SOFT = "#222222", "#666666"
_W, _H = 96, 192  # an image
_FRAME, _GAP, _CAPTION, _MARGIN, _TITLE, _HEAD = 4, 12, 34, 18, 40, 30


class Hit(NamedTuple):
    """One gallery image of a ranking list.

    Attributes:
        row: Its row of the gallery.
        distance: From the query.
        right: Whether it shows the query's identity.
        rank: From 1; 0 if scoring ignores it.
    """

    row: int
    distance: float
    right: bool
    rank: int


def ranking_lists(
    query: Records,
    gallery: Records,
    distances: NDArray[np.floating],
    indices: NDArray[np.int64],
    *,
    top: int = 10,
    junk: bool = False,
    same_camera: bool = False,
) -> list[list[Hit]]:
    """Judge what a search found.

    Args:
        query: Q records.
        gallery: The whole gallery.
        distances: (Q, k), ascending, as from `search`.
        indices: (Q, k) rows of `gallery`, as from `search`.
        top: Images that count, at most, in each list.
        junk: Keep the images between them that scoring ignores: the query's identity under the query's camera, and
            identity -1.
        same_camera: Let images of the query's camera count, as protocol ``"no_camera"`` does.

    Returns:
        A list per query, nearest first.

    Raises:
        DataError: No query, or `distances` and `indices` do not fit `query`.
    """
    if len(query) == 0 or not len(query) == len(distances) == len(indices):
        raise DataError(
            f"{len(query)} queries with {len(distances)} rows of distances and {len(indices)} of indices; expected the "
            "same number of each, at least one."
        )
    lists = []
    for q in range(len(query)):
        pid, cam = gallery.pid[indices[q]], gallery.camid[indices[q]]
        right = (pid == query.pid[q]) & (pid != JUNK)
        counts = pid != JUNK
        if not same_camera:
            counts &= ~(right & (cam == query.camid[q]) & (cam != NO_CAMERA))
        rank = counts.cumsum()
        shown = np.flatnonzero((rank - counts < top) & (counts | junk))
        lists.append(
            [Hit(int(indices[q][k]), float(distances[q][k]), bool(right[k]), int(rank[k] * counts[k])) for k in shown]
        )
    return lists


def draw_ranking(
    query: Records,
    gallery: Records,
    distances: NDArray[np.floating],
    indices: NDArray[np.int64],
    path: str | Path,
    *,
    top: int = 10,
    title: str = "",
    junk: bool = False,
    same_camera: bool = False,
    ap: Sequence[float] | NDArray[np.floating] | None = None,
) -> Path:
    """Draw one row per query: the query, then the nearest gallery images, green if right and red if wrong.

    Args:
        query: The queries to draw, say ``dataset.query.select([0, 1, 2])``.
        gallery: The whole gallery.
        distances: (len(query), k), ascending, as from `search`.
        indices: (len(query), k) rows of `gallery`, as from `search`; k larger than `top`, as images that scoring
            ignores (the query's identity under the query's camera, and identity -1) do not count.
        path: The PNG to write, whole or not at all.
        top: Gallery images per row.
        title: Over the picture.
        junk: Draw the ignored images as well, greyed, among the `top` of a row; by default they are left out.
        same_camera: Let images of the query's identity and camera count, as protocol ``"no_camera"`` does.
        ap: (len(query),) average precisions to write under the queries.

    Returns:
        `path`.

    Raises:
        DataError: No query, or `distances` and `indices` do not fit `query`.
        CorruptImageError: An image cannot be decoded.
    """
    lists = ranking_lists(query, gallery, distances, indices, top=top, junk=junk, same_camera=same_camera)
    head = _HEAD + (_TITLE if title else 0)
    row_height = _H + 2 * _FRAME + _CAPTION + _GAP
    size = _column(top + 1) + _MARGIN - _GAP, head + len(query) * row_height + _MARGIN
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    if title:
        draw.text((_MARGIN, 16), title, _INK, ImageFont.load_default(19))
    for column in range(top + 1):
        text = "query" if column == 0 else "" if junk else str(column)
        draw.text((_column(column) + _FRAME + _W / 2, head - 6), text, _SOFT, ImageFont.load_default(13), anchor="ms")
    for row, hits in enumerate(lists):
        y = head + row * row_height
        below = "" if ap is None else f"AP {100 * ap[row]:.1f}"
        _cell(picture, _column(0), y, thumbnail(query.path[row]), _QUERY, identity(query, row), below)
        for column, hit in enumerate(hits[:top], start=1):
            image = thumbnail(gallery.path[hit.row], greyed=hit.rank == 0)
            below = short(hit.distance)
            if junk:
                below = f"#{hit.rank}   {below}" if hit.rank else "ignored"
            _cell(picture, _column(column), y, image, colour_of(hit), identity(gallery, hit.row), below)
    path = Path(path)
    with atomic(path) as temporary:
        picture.save(temporary, "PNG", compress_level=3)  # photographs: more effort gains little
    return path


def thumbnail(path: str, size: tuple[int, int] = (_W, _H), *, greyed: bool = False) -> Image.Image:
    """Read an image at `size` (width, height); `greyed`: without colour, and faint."""
    image = read_image(path).resize(size, Image.Resampling.LANCZOS)
    if not greyed:
        return image
    return Image.blend(ImageOps.grayscale(image).convert("RGB"), Image.new("RGB", size, "white"), 0.5)


def colour_of(hit: Hit) -> str:
    """Return the colour of the frame: green if right, red if wrong, grey if it does not count."""
    return _IGNORED if hit.rank == 0 else _RIGHT if hit.right else _WRONG


def identity(records: Records, row: int) -> str:
    """Return identity and, where known, camera of a row, as written under its picture."""
    pid, cam = records.pid[row], records.camid[row]
    return ("junk" if pid == JUNK else f"id {pid}") + (f"  cam {cam}" if cam != NO_CAMERA else "")


def short(distance: float) -> str:
    """Return a distance as written under a picture."""
    return f"{distance:.3f}" if abs(distance) < 10 else f"{distance:.4g}"


def _column(column: int) -> int:
    """Left edge of a column; the query stands a little apart."""
    return _MARGIN + column * (_W + 2 * _FRAME + _GAP) + (_GAP if column else 0)


def _cell(picture: Image.Image, x: int, y: int, image: Image.Image, colour: str, caption: str, below: str) -> None:
    draw = ImageDraw.Draw(picture)
    draw.rectangle([x, y, x + _W + 2 * _FRAME - 1, y + _H + 2 * _FRAME - 1], colour)
    picture.paste(image, (x + _FRAME, y + _FRAME))
    middle, bottom = x + _FRAME + _W / 2, y + _H + 2 * _FRAME
    draw.text((middle, bottom + 4), caption, _INK, ImageFont.load_default(12), anchor="mt")
    draw.text((middle, bottom + 19), below, _SOFT, ImageFont.load_default(12), anchor="mt")

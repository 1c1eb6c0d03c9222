"""A look at a data set: a few persons as a picture, one row each."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from reidzoo._files import atomic
from reidzoo.data.datasets import load_dataset
from reidzoo.data.loaders import read_image
from reidzoo.data.records import JUNK, NO_CAMERA, IntArray, Records, ReIDDataset
from reidzoo.errors import CorruptImageError, DataError

_COLOURS = {"train": "#666666", "query": "#1f6fc5", "gallery": "#2e9e4f"}
_INK, _SOFT, _BAD = "#222222", "#666666", "#d43d3d"
_W, _H = 64, 128  # an image
_FRAME, _GAP, _CAPTION, _MARGIN, _LABEL, _HEAD = 3, 8, 18, 16, 104, 58


class _Shown(NamedTuple):
    split: str
    path: str
    camid: int


def draw_contact_sheet(
    spec: str | os.PathLike[str] | ReIDDataset, path: str | Path, *, identities: int = 8, images: int = 10
) -> Path:
    """Draw one row per person: images of as many of its cameras as possible, framed in the colour of their split.

    Persons are taken evenly from the sorted pids, half of them from the training images where there is a test set, with
    a row each for distractors and junk where there are some. An image that cannot be decoded is drawn as a crossed box.

    Args:
        spec: As for `reidzoo.data.load_dataset`.
        path: The picture to write, whole or not at all; its suffix (.png, .jpg) decides the format.
        identities: Persons to draw.
        images: Images per person.

    Returns:
        `path`.

    Raises:
        DataError: The data set cannot be read or holds no image, a number is below 1, or the suffix is unknown.
    """
    if min(identities, images) < 1:
        raise DataError(f"identities = {identities} and images = {images}; expected at least 1 of each.")
    path = Path(path)
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise DataError(f"{path} ends with {path.suffix!r}; expected a picture's name, like sheet.png or sheet.jpg.")
    data = load_dataset(spec)
    rows = _choose(data, identities, images)
    if not rows:
        raise DataError(f"{data.name} at {data.root} holds no image to draw.")
    width = 2 * _MARGIN + _LABEL + max(len(row) for _, row in rows) * (_W + 2 * _FRAME + _GAP)
    picture = Image.new("RGB", (max(width, 420), _HEAD + len(rows) * _row_height() + _MARGIN), "white")
    _draw_head(picture, data)
    for i, (label, row) in enumerate(rows):
        top = _HEAD + i * _row_height()
        ImageDraw.Draw(picture).text((_MARGIN, top + _H / 2), label, _INK, ImageFont.load_default(14), anchor="lm")
        for column, shown in enumerate(row):
            _draw_cell(picture, _MARGIN + _LABEL + column * (_W + 2 * _FRAME + _GAP), top, shown)
    with atomic(path) as temporary:
        picture.save(temporary, "PNG" if path.suffix.lower() == ".png" else "JPEG")
    return path


def _choose(data: ReIDDataset, identities: int, images: int) -> list[tuple[str, list[_Shown]]]:
    """(label, images) of every row."""
    train = {"train": data.train}
    test = {"query": data.query, "gallery": data.gallery}
    nobody = [JUNK] if (data.query.pid == 0).any() else [JUNK, 0]
    tested = np.setdiff1d(data.query.pid if len(data.query) else data.gallery.pid, nobody)
    trained = np.setdiff1d(data.train.pid, [JUNK])
    for_train = identities - min(len(tested), identities // 2) if len(trained) else 0
    for_train = min(for_train, len(trained))
    wanted = [(f"person {pid}", pid, train) for pid in _evenly(trained, for_train)]
    wanted += [(f"person {pid}", pid, test) for pid in _evenly(tested, identities - for_train)]
    wanted += [("junk" if pid == JUNK else "distractors", pid, {"gallery": data.gallery}) for pid in reversed(nobody)]
    rows = [(label, _pick(splits, pid, images)) for label, pid, splits in wanted]
    return [(label, row) for label, row in rows if row]


def _evenly(values: IntArray, count: int) -> list[int]:
    chosen: list[int] = values[np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(int)].tolist()
    return chosen


def _pick(splits: dict[str, Records], pid: int, images: int) -> list[_Shown]:
    """Images of a person, a camera's first ones first, then ordered by split and camera."""
    found = [
        (split, int(i), int(records.camid[i]))
        for split, records in splits.items()
        for i in np.flatnonzero(records.pid == pid)
    ]
    seen: dict[tuple[str, int], int] = {}
    turns = []
    for split, _, camid in found:
        turns.append(seen.setdefault((split, camid), 0))
        seen[split, camid] += 1
    order = np.argsort(turns, kind="stable")[:images]
    chosen = sorted((found[k] for k in order), key=lambda f: (list(splits).index(f[0]), f[2], f[1]))
    return [_Shown(split, splits[split].path[i], camid) for split, i, camid in chosen]


def _row_height() -> int:
    return _H + 2 * _FRAME + _CAPTION + _GAP


def _draw_head(picture: Image.Image, data: ReIDDataset) -> None:
    draw = ImageDraw.Draw(picture)
    draw.text((_MARGIN, 10), f"{data.name}   {data.root.name}", _INK, ImageFont.load_default(17))
    x = float(_MARGIN)
    for split, colour in _COLOURS.items():
        if count := len(getattr(data, split)):
            text = f"{split}: {count:,} images"
            draw.rectangle([x, 37, x + 10, 47], colour)
            draw.text((x + 15, 42), text, _SOFT, ImageFont.load_default(13), anchor="lm")
            x += 35 + draw.textlength(text, ImageFont.load_default(13))


def _draw_cell(picture: Image.Image, x: int, y: int, shown: _Shown) -> None:
    draw = ImageDraw.Draw(picture)
    draw.rectangle([x, y, x + _W + 2 * _FRAME - 1, y + _H + 2 * _FRAME - 1], _COLOURS[shown.split])
    inner = (x + _FRAME, y + _FRAME)
    try:
        picture.paste(_fit(read_image(shown.path)), inner)
    except (CorruptImageError, DataError):
        draw.rectangle([*inner, inner[0] + _W - 1, inner[1] + _H - 1], "white")
        draw.line([*inner, inner[0] + _W - 1, inner[1] + _H - 1], _BAD, 2)
        draw.line([inner[0], inner[1] + _H - 1, inner[0] + _W - 1, inner[1]], _BAD, 2)
    camera = f"cam {shown.camid}" if shown.camid != NO_CAMERA else "cam ?"
    middle = x + _FRAME + _W / 2
    draw.text((middle, y + _H + 2 * _FRAME + 3), camera, _SOFT, ImageFont.load_default(12), anchor="mt")


def _fit(image: Image.Image) -> Image.Image:
    """The image in the middle of a cell, with its own proportions."""
    scale = min(_W / image.width, _H / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    cell = Image.new("RGB", (_W, _H), "#eeeeee")
    cell.paste(image.resize(size, Image.Resampling.LANCZOS), ((_W - size[0]) // 2, (_H - size[1]) // 2))
    return cell

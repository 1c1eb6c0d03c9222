"""Small line charts as PNG, with Pillow alone: training curves should not need a plotting library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from reidzoo._files import atomic

Series: TypeAlias = Mapping[str, tuple[Sequence[float], Sequence[float]]]

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#333333")  # Okabe and Ito, 2008
_INK, _SOFT, _GRID = "#222222", "#666666", "#e4e4e4"
_WIDTH, _HEIGHT = 460, 320  # of a panel
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 22, 46, 48  # its margins
_TITLE = 40
_FINE = 4  # pixels drawn per unit of the sizes above ...
_REDUCE = 2  # ... and averaged in the finished picture: smooth lines


class Panel(TypedDict, total=False):
    """One chart of a row: the lines by name, and the names of its axes (xlabel: that of the whole picture).

    `marks` are vertical lines by name, at these x; `fill` tints what lies between the lines and the lowest tick;
    `ylim` is the least that the vertical axis spans.
    """

    series: Series
    ylabel: str
    xlabel: str
    marks: Mapping[str, float]
    fill: bool
    ylim: tuple[float, float]


def line_chart(
    panels: Sequence[Panel] | Series,
    path: str | Path,
    *,
    title: str = "",
    xlabel: str = "",
    ylabel: str = "",
    columns: int | None = None,
) -> Path:
    """Draw lines and write them as a PNG, whole or not at all.

    Args:
        panels: Lines by name, each ``(x, y)`` of equal lengths; or several such panels. A value that is not finite
            leaves a gap.
        path: The file to write.
        title: Over the whole picture.
        xlabel: Under every panel that has no ``xlabel`` of its own.
        ylabel: Over the vertical axis of a single panel.
        columns: How many panels stand side by side; None: all.

    Returns:
        `path`.
    """
    drawn: list[Panel] = [{"series": panels, "ylabel": ylabel}] if isinstance(panels, Mapping) else list(panels)
    head = _TITLE if title else 0
    columns = min(columns or len(drawn), len(drawn))
    rows = math.ceil(len(drawn) / columns)
    picture = Image.new("RGB", (_WIDTH * columns * _FINE, (_HEIGHT * rows + head) * _FINE), "white")
    draw = ImageDraw.Draw(picture, "RGBA")  # blends
    if title:
        draw.text((_LEFT * _FINE, 14 * _FINE), title, _INK, _font(17))
    for i, panel in enumerate(drawn):
        y, x = divmod(i, columns)
        _Axes(draw, x * _WIDTH, head + y * _HEIGHT, panel, panel.get("xlabel", xlabel)).draw()
    path = Path(path)
    with atomic(path) as temporary:
        picture.resize((picture.width // _REDUCE, picture.height // _REDUCE), Image.Resampling.LANCZOS).save(
            temporary, "PNG"
        )
    return path


class _Axes:
    """One panel: where it is, what its axes span, and how it is drawn."""

    def __init__(self, draw: ImageDraw.ImageDraw, left: int, top: int, panel: Panel, xlabel: str) -> None:
        self.canvas, self.xlabel, self.ylabel = draw, xlabel, panel.get("ylabel", "")
        self.lines = {n: (np.asarray(x, float), np.asarray(y, float)) for n, (x, y) in panel["series"].items()}
        self.x0, self.x1 = (left + _LEFT) * _FINE, (left + _WIDTH - _RIGHT) * _FINE
        self.y0, self.y1 = (top + _HEIGHT - _BOTTOM) * _FINE, (top + _TOP) * _FINE
        self.xticks = _ticks([x[np.isfinite(y)] for x, y in self.lines.values()])
        self.yticks = _ticks([*(y for _, y in self.lines.values()), np.array(panel.get("ylim", ()), float)])
        xs = _finite([x for x, _ in self.lines.values()])
        self.xspan = (xs.min(), xs.max()) if len(xs) and xs.min() < xs.max() else (self.xticks[0], self.xticks[-1])
        self.yspan = (self.yticks[0], self.yticks[-1])
        self.marks, self.fill = panel.get("marks", {}), panel.get("fill", False)

    def draw(self) -> None:
        self._grid()
        if self.fill:
            for colour, (x, y) in zip(_cycle(len(self.lines)), self.lines.values(), strict=True):
                self._area(x, y, colour)
        for name, at in self.marks.items():
            self._mark(name, at)
        for colour, (x, y) in zip(_cycle(len(self.lines)), self.lines.values(), strict=True):
            self._line(x, y, colour)
        self._legend()

    def _at(self, x: float, y: float) -> tuple[float, float]:
        (xa, xb), (ya, yb) = self.xspan, self.yspan
        return (
            self.x0 + (x - xa) / (xb - xa) * (self.x1 - self.x0),
            self.y0 + (y - ya) / (yb - ya) * (self.y1 - self.y0),
        )

    def _grid(self) -> None:
        font = _font(12)
        for value, text in zip(self.yticks, _labels(self.yticks), strict=True):
            y = self._at(self.xspan[0], value)[1]
            self.canvas.line([(self.x0, y), (self.x1, y)], _GRID, _FINE)
            self.canvas.text((self.x0 - 8 * _FINE, y), text, _SOFT, font, anchor="rm")
        for value, text in zip(self.xticks, _labels(self.xticks), strict=True):
            if self.xspan[0] <= value <= self.xspan[1]:
                x = self._at(value, self.yspan[0])[0]
                self.canvas.line([(x, self.y0), (x, self.y0 + 4 * _FINE)], _SOFT, _FINE)
                self.canvas.text((x, self.y0 + 8 * _FINE), text, _SOFT, font, anchor="mt")
        self.canvas.line([(self.x0, self.y0), (self.x1, self.y0)], _SOFT, _FINE)
        self.canvas.text(((self.x0 + self.x1) / 2, self.y0 + 28 * _FINE), self.xlabel, _INK, _font(13), anchor="mt")

    def _line(self, x: NDArray[np.float64], y: NDArray[np.float64], colour: str) -> None:
        good = np.isfinite(x) & np.isfinite(y)
        for piece in np.split(np.arange(len(x)), np.flatnonzero(~good)):
            points = [self._at(x[i], y[i]) for i in piece if good[i]]
            if len(points) > 1:
                self.canvas.line(points, colour, 2 * _FINE, joint="curve")
            if len(points) <= 12:
                for px, py in points:
                    r = 3 * _FINE
                    self.canvas.ellipse([px - r, py - r, px + r, py + r], colour)

    def _area(self, x: NDArray[np.float64], y: NDArray[np.float64], colour: str) -> None:
        """Tint the area under a line; `canvas` blends colours that are not opaque."""
        good = np.isfinite(x) & np.isfinite(y)
        points = [self._at(a, b) for a, b in zip(x[good], y[good], strict=True)]
        if len(points) > 1:
            self.canvas.polygon([(points[0][0], self.y0), *points, (points[-1][0], self.y0)], f"{colour}40")

    def _mark(self, name: str, x: float) -> None:
        if self.xspan[0] <= x <= self.xspan[1]:
            at, top = self._at(x, self.yspan[0])[0], self.y1
            for y in range(top, self.y0, 8 * _FINE):
                self.canvas.line([(at, y), (at, min(y + 4 * _FINE, self.y0))], _INK, _FINE)
            left = at < (self.x0 + self.x1) / 2
            shift = (5 if left else -5) * _FINE
            self.canvas.text((at + shift, top + 2 * _FINE), name, _INK, _font(12), anchor="lt" if left else "rt")

    def _legend(self) -> None:
        y, font = self.y1 - 20 * _FINE, _font(13)
        self.canvas.text((self.x0, y), self.ylabel, _INK, font, anchor="lm")
        if len(self.lines) < 2 and self.ylabel:
            return
        x = float(self.x1)
        for colour, name in reversed(list(zip(_cycle(len(self.lines)), self.lines, strict=True))):
            self.canvas.text((x, y), name, _INK, font, anchor="rm")
            x -= self.canvas.textlength(name, font) + 6 * _FINE
            self.canvas.line([(x - 18 * _FINE, y), (x, y)], colour, 3 * _FINE)
            x -= 32 * _FINE


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size * _FINE)


def _cycle(n: int) -> list[str]:
    return [_COLOURS[i % len(_COLOURS)] for i in range(n)]


def _finite(columns: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    values: NDArray[np.float64] = np.concatenate([*columns, np.empty(0)])
    return values[np.isfinite(values)]


def _ticks(columns: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return four to seven round values (1, 2 or 5 times a power of ten apart) that span the data."""
    values = _finite(columns)
    low, high = (values.min(), values.max()) if len(values) else (0.0, 1.0)
    if low == high:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(m for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return np.array([i * step for i in range(first, last + 1)])


def _labels(ticks: NDArray[np.float64]) -> list[str]:
    step = ticks[1] - ticks[0]
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [f"{t + 0.0:.{decimals}f}" if decimals <= 4 and abs(ticks).max() < 1e6 else f"{t:.3g}" for t in ticks]

"""One drawn pedestrian: a `Person` in a `Pose`, on a transparent canvas.

Body coordinates: the person is 1 high, y goes up from the soles, x to the right of the image, both in units of the
person's height. The figure is a flat puppet whose joints are projected from a walking body turned by `Pose.angle`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw

from reidzoo.data._person import Colour, Person

Point: TypeAlias = tuple[float, float]


@dataclass(frozen=True)
class Pose:
    """How a person stands in one image, and where."""

    phase: float  # of the walk, radians
    angle: float  # of the body: 0 faces the camera, pi/2 walks to the right of the image, pi shows the back
    x: float = 0.5  # body axis, share of the canvas width
    feet: float = 0.97  # soles, share of the canvas height from its top
    height: float = 0.92  # of the body, share of the canvas height
    lean: float = 0.0  # horizontal shift of the head, from the tilt of the camera


def draw_person(person: Person, pose: Pose, size: tuple[int, int]) -> Image.Image:
    """Draw a person.

    Args:
        person: Who.
        pose: How and where; parts outside the canvas are cut off.
        size: (H, W) of the canvas in pixels.

    Returns:
        RGBA image; alpha is 255 on the body, 0 around it and in between on the ground shadow. Where alpha is 0 the
        colour is black, so averaging pixels gives premultiplied colours.
    """
    puppet = _Puppet(person, pose, size)
    puppet.draw()
    return puppet.canvas


class _Puppet:
    """Joints of one person in one pose, and the order in which its parts are painted."""

    def __init__(self, person: Person, pose: Pose, size: tuple[int, int]) -> None:
        height, width = size
        self.person, self.pose = person, pose
        self.canvas = Image.new("RGBA", (width, height))
        self.pen = ImageDraw.Draw(self.canvas)
        # Boxes are 1:2 upright; another image shape stretches the picture as resizing a real crop would.
        self.ux, self.uy = 2 * width * pose.height, height * pose.height
        self.x0, self.y0 = pose.x * width, pose.feet * height
        self.texture = _texture(person, round(2 * width * 0.92), round(height * 0.92))
        self.cos, self.sin = math.cos(pose.angle), math.sin(pose.angle)
        girth = person.girth
        self.shoulder = math.hypot(0.122 * self.cos, 0.082 * self.sin) * girth  # half widths as seen
        self.waist = math.hypot(0.092 * self.cos, 0.076 * self.sin) * girth
        self.hip = math.hypot(0.1 * self.cos, 0.082 * self.sin) * girth
        self.bob = 0.006 * math.cos(2 * pose.phase)

    def draw(self) -> None:
        """Paint from far to near."""
        self._shadow()
        near = 1 if self.sin < 0 else -1  # the side of the body nearer to the camera
        back = self.cos < -0.25
        if not back:
            self._bag_on_back()
            self._loose_hair()
        self._arm(-near, 0.82)
        self._leg(-near, 0.84)
        self._leg(near, 1.0)
        self._torso()
        self._head()
        if back:
            self._bag_on_back()
            self._loose_hair()
        self._bag_straps()
        self._arm(near, 0.94)
        self._bag_at_side(near)

    # Painting in body coordinates.

    def _px(self, x: float, y: float) -> Point:
        return self.x0 + (x + self.pose.lean * y) * self.ux, self.y0 - (y + self.bob) * self.uy

    def _fill(self, points: list[Point], paint: Colour | Image.Image) -> None:
        pixels = [self._px(*p) for p in points]
        if not isinstance(paint, Image.Image):
            self.pen.polygon(pixels, fill=paint)
            return
        xs, ys = [p[0] for p in pixels], [p[1] for p in pixels]
        left, top = max(0, int(min(xs))), max(0, int(min(ys)))
        right, bottom = min(self.canvas.width, int(max(xs)) + 2), min(self.canvas.height, int(max(ys)) + 2)
        if right <= left or bottom <= top:
            return
        mask = Image.new("L", (right - left, bottom - top))
        ImageDraw.Draw(mask).polygon([(x - left, y - top) for x, y in pixels], fill=255)
        ax, ay = self._px(0.0, 0.82)  # the texture hangs from the shoulders
        dx, dy = round(ax - paint.width / 2), round(ay - 0.05 * self.uy)
        self.canvas.paste(paint.crop((left - dx, top - dy, right - dx, bottom - dy)), (left, top), mask)

    def _slab(self, x: float, ys: Point, upper: float, lower: float, colour: Colour) -> None:
        """Fill an upright trapezium around `x` from ys[0] down to ys[1], of these half widths."""
        top, low = ys
        self._fill([(x - upper, top), (x + upper, top), (x + lower, low), (x - lower, low)], colour)

    def _dot(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        px, py = self._px(x, y)
        rx, ry = rx * self.ux, ry * self.uy
        self.pen.ellipse((px - rx, py - ry, px + rx, py + ry), fill=colour)

    def _limb(self, a: Point, b: Point, wa: float, wb: float, colour: Colour) -> None:
        dx, dy = b[0] - a[0], b[1] - a[1]
        length = math.hypot(dx, dy) or 1.0
        nx, ny = -dy / length, dx / length
        self.pen.polygon(
            [
                self._px(a[0] + nx * wa, a[1] + ny * wa),
                self._px(b[0] + nx * wb, b[1] + ny * wb),
                self._px(b[0] - nx * wb, b[1] - ny * wb),
                self._px(a[0] - nx * wa, a[1] - ny * wa),
            ],
            fill=colour,
        )
        self._dot(*a, wa, wa, colour)

    def _covered_limb(
        self,
        joints: tuple[Point, Point, Point],
        widths: tuple[float, float, float],
        share: float,
        bare: Colour,
        cloth: Colour,
    ) -> None:
        """Paint a two-part limb whose first `share` is covered by clothes, which are a little wider."""
        a, b, c = joints
        wa, wb, wc = widths
        if share < 1.0:
            self._limb(a, b, wa, wb, bare)
            self._limb(b, c, wb, wc, bare)
        if share > 0.5:
            end = _between(b, c, 2 * share - 1)
            self._limb(b, end, wb * 1.12, (wb + (wc - wb) * (2 * share - 1)) * 1.2, cloth)
        if share > 0.0:
            first = min(1.0, 2 * share)
            self._limb(a, _between(a, b, first), wa * 1.08, (wa + (wb - wa) * first) * 1.15, cloth)

    # Parts of the body.

    def _shadow(self) -> None:
        px, py = self._px(0.0, 0.0)
        rx, ry = 0.16 * self.ux, 0.022 * self.uy
        self.pen.ellipse((px - rx, py - ry, px + rx, py + ry), fill=(0, 0, 0, 96))

    def _leg(self, side: int, light: float) -> None:
        person, girth = self.person, self.person.girth
        swing = -side * person.stride * math.sin(self.pose.phase)
        bend = 0.75 * person.stride * max(0.0, -side * math.cos(self.pose.phase)) + 0.06
        hip = (side * self.cos * 0.05 * girth, person.leg)
        thigh, shin = 0.52 * person.leg, 0.48 * person.leg - 0.028
        knee = (hip[0] + self.sin * math.sin(swing + bend / 2) * thigh, hip[1] - math.cos(swing + bend / 2) * thigh)
        lower = swing - bend
        ankle = (knee[0] + self.sin * math.sin(lower) * shin, knee[1] - math.cos(lower) * shin)
        cloth = person.bottom if person.bottom_kind != "skirt" else person.skin
        share = person.bottom_length if person.bottom_kind != "skirt" else 0.0
        widths = (0.058 * girth, 0.042 * girth**0.7, 0.028 * girth**0.5)
        self._covered_limb((hip, knee, ankle), widths, share, _tone(person.skin, light), _tone(cloth, light))
        toe = (ankle[0] + self.sin * 0.055, ankle[1] - 0.016)
        self._limb((ankle[0] - self.sin * 0.012, ankle[1] - 0.006), toe, 0.021, 0.016, _tone(person.shoes, light))
        self._dot(*toe, 0.018, 0.014, _tone(person.shoes, light))

    def _hand(self, side: int) -> tuple[Point, Point, Point]:
        """Shoulder, elbow and wrist."""
        swing = side * 0.85 * self.person.stride * math.sin(self.pose.phase)
        shoulder = (side * self.cos * 0.112 * self.person.girth, 0.795)
        out = side * self.cos * 0.032
        elbow = (shoulder[0] + out + self.sin * math.sin(swing) * 0.165, shoulder[1] - math.cos(swing) * 0.165)
        fore = swing + 0.35
        wrist = (elbow[0] + out * 0.3 + self.sin * math.sin(fore) * 0.145, elbow[1] - math.cos(fore) * 0.145)
        return shoulder, elbow, wrist

    def _arm(self, side: int, light: float) -> None:
        person = self.person
        joints = self._hand(side)
        widths = (0.037 * person.girth**0.7, 0.029 * person.girth**0.7, 0.02)
        skin = _tone(person.skin, light)
        self._covered_limb(joints, widths, person.sleeve, skin, _tone(person.top, light))
        self._dot(joints[2][0], joints[2][1] - 0.015, 0.019, 0.024, skin)

    def _torso(self) -> None:
        person, hip_y = self.person, self.person.leg
        neck, hem = 0.036, min(person.hem, hip_y)
        if person.bottom_kind == "skirt":
            hem_y = hip_y * (1 - person.bottom_length)
            self._slab(0.0, (hip_y + 0.08, hem_y), self.waist, self.hip * 1.3, person.bottom)
        else:
            self._slab(0.0, (hip_y + 0.06, hip_y - 0.03), self.waist, self.hip, person.bottom)
        bottom = self.hip * (1.04 if hem > hip_y - 0.08 else 1.16)
        outline = [
            (-neck, 0.835), (neck, 0.835), (self.shoulder, 0.8), (self.shoulder * 1.02, 0.74),
            (self.waist * 1.04, 0.62), (bottom, hip_y + 0.01), (bottom, hem), (-bottom, hem), (-bottom, hip_y + 0.01),
            (-self.waist * 1.04, 0.62), (-self.shoulder * 1.02, 0.74), (-self.shoulder, 0.8),
        ]  # fmt: skip
        self._fill(outline, self.texture or person.top)
        centre = self.sin * 0.07  # middle of the chest as seen
        if person.inner and self.cos > 0.2:
            self._slab(centre, (0.83, hem), 0.03 * self.cos, 0.03 * self.cos, person.inner)
        if person.pattern == "logo" and self.cos > 0.2:
            self._slab(centre + 0.01, (0.755, 0.685), 0.048 * self.cos, 0.048 * self.cos, person.top2)

    def _head(self) -> None:
        person, sin, cos = self.person, self.sin, self.cos
        self._limb((0.0, 0.82), (0.004 * sin, 0.88), 0.027, 0.025, _tone(person.skin, 0.85))
        x = 0.016 * sin
        self._dot(x, 0.925, 0.05, 0.07, person.skin if person.haircut == "bald" else person.hair)
        if cos > -0.35:
            half = 0.044 * (0.62 + 0.38 * max(cos, 0.0))
            self._dot(x + 0.024 * sin, 0.902, half, 0.054, person.skin)
            for eye in (-0.017, 0.017):
                if abs(eye * cos + 0.04 * sin) < 0.05:
                    self._dot(x + eye * cos + 0.036 * sin, 0.918, 0.006, 0.006, _tone(person.skin, 0.35))
        if person.hat != "none":
            low = 0.935 if person.hat == "cap" else 0.925
            crown = [(0.053 * math.cos(t), 0.058 * math.sin(t)) for t in (0.0, 0.5, 1.0, 1.57, 2.14, 2.64, 3.14)]
            self._fill([(x + cx, low + 0.012 + cy) for cx, cy in crown], person.hat_colour)
            if person.hat == "cap" and cos > -0.5:
                half = 0.03 + 0.02 * abs(cos)
                self._slab(x + 0.055 * sin, (low + 0.016, low), half, half, _tone(person.hat_colour, 0.7))

    def _loose_hair(self) -> None:
        person, x = self.person, -0.02 * self.sin
        if person.haircut == "long":
            half = 0.042 + 0.014 * abs(self.cos)
            self._slab(x, (0.93, 0.785), half, half * 1.05, person.hair)
        elif person.haircut == "ponytail":
            root, tip = (x - 0.035 * self.sin, 0.945), (x - 0.065 * self.sin, 0.815)
            self._limb(root, tip, 0.022, 0.012, _tone(person.hair, 0.85))

    # Bags.

    def _bag_on_back(self) -> None:
        if self.person.bag != "backpack":
            return
        x, half = -0.098 * self.sin * self.person.girth, 0.082 * abs(self.cos) + 0.05 * abs(self.sin)
        colour = self.person.bag_colour
        self._slab(x, (0.805, 0.76), half * 0.8, half, colour)
        self._slab(x, (0.76, 0.575), half, half, colour)
        self._slab(x, (0.67, 0.6), half * 0.7, half * 0.7, _tone(colour, 0.7))

    def _bag_straps(self) -> None:
        person = self.person
        if person.bag == "backpack" and self.cos > -0.25:
            for side in (-1, 1):
                x = side * 0.06 * self.cos + 0.02 * self.sin
                self._limb((x, 0.815), (x * 1.1, 0.64), 0.011, 0.011, person.bag_colour)
        elif person.bag == "messenger":
            x = person.bag_side * self.cos * 0.095 * person.girth
            self._limb((-x * 0.6, 0.825), (x, person.leg + 0.06), 0.009, 0.009, person.bag_colour)

    def _bag_at_side(self, near: int) -> None:
        """Paint a bag that hangs at the hip or in the hand; the body hides most of one at its far side."""
        person = self.person
        hidden = person.bag_side != near and abs(self.cos) <= 0.5
        if hidden or person.bag not in ("handbag", "messenger"):
            return
        half = 0.035 + 0.03 * abs(self.sin)
        if person.bag == "messenger":
            x, y = person.bag_side * self.cos * 0.1 * person.girth, person.leg + 0.075
        else:
            _, _, (x, y) = self._hand(person.bag_side)
            y -= 0.05
            self._limb((x, y + 0.04), (x, y), 0.006, 0.02, _tone(person.bag_colour, 0.7))
        self._slab(x, (y, y - 0.11), half * 0.85, half, person.bag_colour)


@lru_cache(maxsize=256)
def _texture(person: Person, ux: int, uy: int) -> Image.Image | None:
    """Return the cloth of a patterned top, 0.7 x 0.75 body heights hanging from just above the shoulders, or None."""
    if person.pattern in ("plain", "logo"):
        return None
    y, x = np.mgrid[0 : 0.75 : round(0.75 * uy) * 1j, -0.35 : 0.35 : round(0.7 * ux) * 1j]
    rows, cols = (y / person.period) % 1 < 0.45, (x / person.period) % 1 < 0.4
    mix = {
        "hstripes": lambda: rows,
        "vstripes": lambda: cols,
        "checks": lambda: 0.5 * rows + 0.5 * cols,
        "spots": lambda: ((y / person.period) % 1 - 0.5) ** 2 + ((x / person.period) % 1 - 0.5) ** 2 < 0.09,
        "yoke": lambda: y < 0.17,
    }[person.pattern]()
    mix = np.asarray(mix, dtype=np.float64)[..., None]
    cloth = np.array(person.top) * (1 - mix) + np.array(person.top2) * mix
    return Image.fromarray(cloth.astype(np.uint8)).convert("RGBA")


def _tone(colour: Colour, light: float) -> Colour:
    r, g, b = colour
    return int(r * light), int(g * light), int(b * light)


def _between(a: Point, b: Point, share: float) -> Point:
    return a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share

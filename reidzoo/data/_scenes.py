"""One drawn camera: the scene that it watches and what its lens, sensor and coder do to the light."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from reidzoo.data._drawing import Pose, draw_person
from reidzoo.data._person import Colour, Person

_GOODS: tuple[Colour, ...] = ((160, 80, 70), (176, 156, 92), (84, 116, 150), (96, 130, 92), (170, 168, 160))
_SPAN = 4  # a scene is this many crops wide


@dataclass(frozen=True)
class Camera:
    """What stays the same in every image of a camera.

    The arrays are as high as a crop and `_SPAN` times as wide.
    """

    size: tuple[int, int]  # (H, W) of a crop
    scene: npt.NDArray[np.uint8]  # (H, 4W, 3)
    light: npt.NDArray[np.float32]  # (H, 4W): light and shade on the place, around 1
    noise: npt.NDArray[np.int16]  # (H + 64, W + 64, 3): sensor noise, a random window of it per image
    matrix: tuple[float, ...]  # 3 x 4: saturation, colour cast
    curve: tuple[int, ...]  # 768 values: exposure, contrast and gamma per channel
    blur: float  # sigma of the lens in pixels
    scale: float  # resolution, as a share of the crop's
    quality: int  # of JPEG, the camera's typical
    view: float  # typical angle of a passing person
    lean: float  # tilt of people in the image


@lru_cache(maxsize=64)
def camera(seed: int, index: int, size: tuple[int, int]) -> Camera:
    """Build camera `index` of the set `seed` for crops of `size` (H, W)."""
    rng = np.random.default_rng([seed, 11, index])
    height, width = size
    sigma = rng.uniform(1.0, 4.0)
    saturation, cast = rng.uniform(0.7, 1.1), rng.uniform(0.92, 1.08, 3)
    grey = (0.299, 0.587, 0.114)
    matrix = [
        [cast[i] * ((1 - saturation) * grey[j] + saturation * (i == j)) for j in range(3)] + [0.0] for i in range(3)
    ]
    exposure, gamma, low = rng.uniform(0.9, 1.15), rng.uniform(0.85, 1.18), rng.uniform(0, 14)
    high = rng.uniform(225, 255)
    ramp = np.clip(np.arange(256) / 255 * exposure, 0, 1) ** gamma * (high - low) + low
    noise = rng.normal(0, sigma, (height + 64, width + 64, 1)) + rng.normal(0, sigma / 2, (height + 64, width + 64, 3))
    return Camera(
        size=size,
        scene=_scene(rng, index, height, width * _SPAN),
        light=_light(rng, height, width * _SPAN),
        noise=noise.round().astype(np.int16),
        matrix=tuple(float(v) for row in matrix for v in row),
        curve=tuple(ramp.round().astype(int).tolist()) * 3,
        blur=rng.uniform(0.0, 0.007) * height,
        scale=rng.uniform(0.45, 1.0),
        quality=int(rng.integers(55, 93)),
        view=rng.uniform(0, 2 * math.pi),
        lean=rng.uniform(-0.03, 0.03),
    )


def shoot(
    cam: Camera,
    person: Person,
    pose: Pose,
    rng: np.random.Generator,
    *,
    place: float,
    exposure: float,
    occlusion: float,
) -> bytes:
    """Take one picture of a person and code it.

    Args:
        cam: Camera.
        person: Who.
        pose: How and where in the crop.
        rng: Source of noise, occluder and coding quality.
        place: Where in the scene, 0 (left) to 1.
        exposure: Factor on the light (time of day).
        occlusion: Chance that something stands in front of the person.

    Returns:
        JPEG file of the camera's size.
    """
    height, width = cam.size
    figure = draw_person(person, pose, (2 * height, 2 * width))
    if rng.random() < occlusion:
        _occlude(figure, rng)
    layer = np.asarray(figure.reduce(2), dtype=np.float32)
    left = round(place * (_SPAN - 1) * width)
    # Round bodies: brighter on the side where the light comes from; cloth has folds.
    side = np.linspace(-0.22, 0.22, width, dtype=np.float32) * (1 if cam.view < math.pi else -1)
    folds = _folds(height, width)[rng.integers(0, height) :, rng.integers(0, width) :][:height, :width]
    clear = 1 - layer[..., 3:] / 255
    picture = layer[..., :3] * (folds * (1 + side))[..., None] + cam.scene[:, left : left + width] * clear
    picture *= (cam.light[:, left : left + width] * exposure)[..., None]
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    image = image.convert("RGB", cam.matrix).point(cam.curve)
    if cam.scale < 0.95:
        small = (max(4, round(width * cam.scale)), max(8, round(height * cam.scale)))
        image = image.resize(small, Image.Resampling.BILINEAR).resize((width, height), Image.Resampling.BILINEAR)
    if cam.blur > 0.2:
        image = image.filter(ImageFilter.GaussianBlur(cam.blur))
    y, x = rng.integers(0, 64, 2)
    noisy = np.asarray(image, dtype=np.int16) + cam.noise[y : y + height, x : x + width]
    file = io.BytesIO()
    quality = int(np.clip(cam.quality + rng.integers(-8, 9), 30, 95))
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=quality)
    return file.getvalue()


def _occlude(figure: Image.Image, rng: np.random.Generator) -> None:
    """Put a post, a bush, a car's roof or another passer-by in front of the person."""
    width, height = figure.size
    pen = ImageDraw.Draw(figure)
    kind = rng.integers(4)
    grey = int(rng.integers(40, 170))
    if kind == 0:
        x = rng.uniform(0.15, 0.85) * width
        pen.rectangle((x, 0, x + rng.uniform(0.04, 0.1) * width, height), fill=(grey, grey, grey))
    elif kind == 1:
        for _ in range(14):
            x, y, r = rng.uniform(0, width), height * rng.uniform(0.8, 1.0), rng.uniform(0.08, 0.2) * width
            green = int(rng.integers(60, 110))
            pen.ellipse((x - r, y - r, x + r, y + r), fill=(green - 25, green, green - 35))
    elif kind == 2:
        colour = _vary(rng, (110, 110, 116), 40)
        x, y = rng.uniform(-0.9, 0.6) * width, rng.uniform(0.66, 0.85) * height
        pen.rounded_rectangle((x, y, x + 1.4 * width, 1.3 * height), 0.2 * width, fill=colour)
        pen.rectangle((x + 0.15 * width, y + 0.03 * height, x + 1.25 * width, y + 0.12 * height), fill=(40, 46, 54))
    else:
        side = rng.choice((-0.02, 1.02))
        pose = Pose(
            rng.uniform(0, 6.28),
            rng.uniform(0, 6.28),
            x=side,
            feet=rng.uniform(1.0, 1.08),
            height=rng.uniform(0.92, 1.0),
        )
        other = draw_person(Person.random(rng), pose, (height, width))
        figure.alpha_composite(other)


@lru_cache(maxsize=4)
def _folds(height: int, width: int) -> npt.NDArray[np.float32]:
    """Brightness of cloth, (2H, 2W), around 1."""
    return 1 + 0.1 * _blobs(np.random.default_rng(5), 2 * height, 2 * width, height // 14)


def _blobs(rng: np.random.Generator, height: int, width: int, cell: int) -> npt.NDArray[np.float32]:
    """Smooth noise of unit scale with features of about `cell` pixels, (height, width)."""
    cell = max(2, cell)
    coarse = rng.normal(0, 1, (height // cell + 2, width // cell + 2)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def _light(rng: np.random.Generator, height: int, width: int) -> npt.NDArray[np.float32]:
    """Uneven light of a place: soft patches, and at some places the edge of a shadow."""
    light = 1 + 0.07 * _blobs(rng, height, width, height // 2)
    if rng.random() < 0.6:
        y, x = np.mgrid[0:height, 0:width]
        edge = rng.uniform(0.3, 0.7) * width + rng.uniform(-0.5, 0.5) * (y - height / 2)
        light *= 1 - rng.uniform(0.15, 0.35) / (1 + np.exp((edge - x) / (0.02 * width) * rng.choice((-1, 1))))
    return light.astype(np.float32)


def _scene(rng: np.random.Generator, index: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Draw the place that a camera watches, (height, width, 3)."""
    h, w = 2 * height, 2 * width
    horizon = rng.uniform(0.18, 0.5) * h
    image = Image.new("RGB", (w, h))
    pen = ImageDraw.Draw(image)
    kinds = (_street, _park, _plaza, _hall, _shop)
    ground = kinds[(index + int(rng.integers(2))) % len(kinds)](pen, rng, w, h, horizon)
    _floor(pen, rng, w, h, horizon, ground)
    small = image.reduce(2).filter(ImageFilter.GaussianBlur(height / 128))
    grain = 9 * _blobs(rng, height, width, height // 10) + 5 * _blobs(rng, height, width, height // 40)
    return np.clip(np.asarray(small, dtype=np.float32) + grain[..., None], 0, 255).astype(np.uint8)


def _vary(rng: np.random.Generator, colour: Colour, spread: float = 14) -> Colour:
    r, g, b = (
        np.clip(np.array(colour) + rng.normal(0, spread) + rng.normal(0, spread / 3, 3), 0, 255).astype(int).tolist()
    )
    return r, g, b


def _floor(pen: ImageDraw.ImageDraw, rng: np.random.Generator, w: int, h: int, horizon: float, ground: Colour) -> None:
    """Ground with joints that run to the horizon, a kerb and a few darker slabs."""
    pen.rectangle((0, horizon, w, h), fill=ground)
    joint = _vary(rng, ground, 16)
    depth = rng.uniform(1.25, 1.6)
    step = (h - horizon) * 0.05
    y = horizon + step
    while y < h:
        pen.line((0, y, w, y), fill=joint, width=max(1, h // 128))
        step *= depth
        y += step
    vanishing = rng.uniform(0.2, 0.8) * w
    for x in np.arange(-2 * w, 3 * w, rng.uniform(0.12, 0.3) * w):
        pen.line((vanishing, horizon - 0.2 * h, x, h * 1.05), fill=joint, width=max(1, h // 128))
    pen.line((0, horizon, w, horizon), fill=_vary(rng, (70, 70, 70)), width=max(1, h // 64))


def _street(pen: ImageDraw.ImageDraw, rng: np.random.Generator, w: int, h: int, horizon: float) -> Colour:
    x = 0.0
    while x < w:
        width = rng.uniform(0.15, 0.35) * w
        wall = _vary(rng, ((164, 148, 130), (140, 96, 80), (176, 176, 170), (120, 124, 130))[rng.integers(4)])
        pen.rectangle((x, 0, x + width, horizon), fill=wall)
        pane = _vary(rng, (62, 74, 88))
        step, top = 0.07 * w * rng.uniform(0.7, 1.2), horizon * rng.uniform(0.1, 0.4)
        for wx in np.arange(x + 0.02 * w, x + width - 0.03 * w, step):
            pen.rectangle((wx, top, wx + step * 0.55, horizon * 0.8), fill=_vary(rng, pane, 8))
        x += width
    for _ in range(3):
        x, car = rng.uniform(0, w), _vary(rng, (110, 110, 120), 50)
        pen.rounded_rectangle((x, horizon - 0.1 * h, x + 0.25 * w, horizon + 0.03 * h), 0.02 * w, fill=car)
        pen.rectangle((x + 0.05 * w, horizon - 0.09 * h, x + 0.2 * w, horizon - 0.04 * h), fill=(50, 56, 64))
    return _vary(rng, (128, 126, 122))


def _park(pen: ImageDraw.ImageDraw, rng: np.random.Generator, w: int, h: int, horizon: float) -> Colour:
    pen.rectangle((0, 0, w, horizon), fill=_vary(rng, (176, 196, 210)))
    for _ in range(60):
        x, y, r = rng.uniform(0, w), rng.uniform(0.1, 0.95) * horizon, rng.uniform(0.03, 0.08) * w
        pen.ellipse((x - r, y - r, x + r, y + r), fill=_vary(rng, (74, 100, 58), 18))
    for _ in range(6):
        x = rng.uniform(0, w)
        pen.rectangle((x, horizon * 0.4, x + 0.015 * w, horizon), fill=_vary(rng, (84, 66, 50)))
    return _vary(rng, ((112, 128, 82), (166, 152, 126))[rng.integers(2)])


def _plaza(pen: ImageDraw.ImageDraw, rng: np.random.Generator, w: int, h: int, horizon: float) -> Colour:
    pen.rectangle((0, 0, w, horizon), fill=_vary(rng, (206, 210, 212)))
    for _ in range(8):
        x, top, width = rng.uniform(-0.1, 1) * w, rng.uniform(0, 0.6) * horizon, rng.uniform(0.06, 0.2) * w
        pen.rectangle((x, top, x + width, horizon), fill=_vary(rng, (156, 160, 166), 16))
    for _ in range(5):
        x = rng.uniform(0, w)
        pen.rectangle((x, 0, x + 0.012 * w, horizon * 1.1), fill=_vary(rng, (80, 82, 84)))
    return _vary(rng, (186, 176, 160))


def _hall(pen: ImageDraw.ImageDraw, rng: np.random.Generator, w: int, h: int, horizon: float) -> Colour:
    pen.rectangle((0, 0, w, horizon), fill=_vary(rng, (214, 206, 190)))
    for x in np.arange(0.03 * w, w, rng.uniform(0.14, 0.2) * w):
        pen.rectangle((x, horizon * 0.15, x + 0.07 * w, horizon), fill=_vary(rng, (136, 110, 86)))
    pen.rectangle((0, horizon * 0.94, w, horizon), fill=_vary(rng, (96, 90, 84)))
    return _vary(rng, ((150, 136, 118), (196, 194, 188))[rng.integers(2)])


def _shop(pen: ImageDraw.ImageDraw, rng: np.random.Generator, w: int, h: int, horizon: float) -> Colour:
    pen.rectangle((0, 0, w, horizon), fill=_vary(rng, (90, 88, 86)))
    for y in np.arange(0.05 * h, horizon, 0.09 * h):
        for x in np.arange(0, w, 0.03 * w):
            box = (x, y + rng.uniform(0, 0.02) * h, x + 0.024 * w, y + 0.08 * h)
            pen.rectangle(box, fill=_vary(rng, _GOODS[rng.integers(len(_GOODS))], 20))
    return _vary(rng, (170, 172, 174))

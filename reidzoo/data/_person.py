"""Who is drawn: the attributes of a synthetic pedestrian and the population that they come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

Colour: TypeAlias = tuple[int, int, int]

# Clothes are bought from a short list of muted colours, so that colour alone does not tell people apart.
_TOPS: tuple[Colour, ...] = (
    (34, 34, 38), (66, 66, 70), (112, 113, 116), (168, 168, 166), (222, 220, 214), (38, 46, 76), (74, 98, 136),
    (118, 40, 44), (84, 88, 60), (176, 156, 124), (98, 72, 54), (54, 104, 104), (178, 124, 130), (182, 148, 64),
)  # fmt: skip
_BOTTOMS: tuple[Colour, ...] = (
    (32, 32, 36),
    (56, 57, 62),
    (36, 42, 66),
    (70, 90, 124),
    (110, 110, 112),
    (152, 132, 102),
)
_BOTTOM_ODDS = (0.3, 0.18, 0.2, 0.18, 0.07, 0.07)
_SKINS: tuple[Colour, ...] = ((236, 198, 172), (218, 172, 140), (190, 140, 106), (146, 100, 72), (98, 66, 48))
_HAIRS: tuple[Colour, ...] = ((28, 24, 24), (58, 42, 32), (104, 74, 48), (176, 142, 88), (142, 140, 138))
_HAIR_ODDS = (0.4, 0.28, 0.16, 0.08, 0.08)
_SHOES: tuple[Colour, ...] = ((30, 30, 32), (228, 226, 222), (96, 70, 52), (128, 46, 46), (110, 112, 118))
_BAGS: tuple[Colour, ...] = ((36, 36, 40), (112, 48, 44), (52, 66, 100), (120, 96, 66), (150, 152, 150), (70, 92, 66))

PATTERNS = ("plain", "hstripes", "vstripes", "checks", "spots", "yoke", "logo")
_PATTERN_ODDS = (0.34, 0.13, 0.08, 0.1, 0.07, 0.13, 0.15)
HAIRCUTS = ("short", "long", "ponytail", "bald")
HATS = ("none", "cap", "beanie")
BOTTOMS = ("trousers", "shorts", "skirt")
BAGS = ("none", "backpack", "handbag", "messenger")


@dataclass(frozen=True)
class Person:
    """What stays the same about a person in every image; lengths are in units of body height."""

    girth: float  # factor on all widths: slim 0.8, stout 1.25
    leg: float  # height of the hip
    skin: Colour
    hair: Colour
    haircut: str
    hat: str
    hat_colour: Colour
    pattern: str
    top: Colour
    top2: Colour  # second colour of the pattern
    period: float  # of stripes, checks and spots
    sleeve: float  # share of the arm that is covered
    hem: float  # lower end of the top; a coat's is below the hip
    inner: Colour | None  # shirt seen in the open front
    bottom_kind: str
    bottom: Colour
    bottom_length: float  # share of the leg that is covered
    shoes: Colour
    bag: str
    bag_colour: Colour
    bag_side: int  # +1 the person's left, -1 the right
    stride: float  # amplitude of the leg swing, radians

    @staticmethod
    def random(rng: np.random.Generator) -> Person:
        """Draw a person from the population."""
        leg = rng.uniform(0.45, 0.52)
        kind = BOTTOMS[rng.choice(3, p=(0.7, 0.17, 0.13))]
        coat = rng.random() < 0.22
        sleeve = 1.0 if coat or rng.random() < 0.5 else rng.choice((0.0, 0.42, 0.55), p=(0.15, 0.6, 0.25))
        covered = {"trousers": rng.choice((1.0, 0.82), p=(0.85, 0.15)), "shorts": rng.uniform(0.35, 0.6)}
        return Person(
            girth=rng.uniform(0.82, 1.25),
            leg=leg,
            skin=_pick(rng, _SKINS, 6),
            hair=_pick(rng, _HAIRS, 6, _HAIR_ODDS),
            haircut=HAIRCUTS[rng.choice(4, p=(0.5, 0.25, 0.17, 0.08))],
            hat=HATS[rng.choice(3, p=(0.78, 0.13, 0.09))],
            hat_colour=_pick(rng, _BAGS, 8),
            pattern=PATTERNS[rng.choice(len(PATTERNS), p=_PATTERN_ODDS)],
            top=_pick(rng, _TOPS, 7),
            top2=_pick(rng, _TOPS, 7),
            period=rng.uniform(0.05, 0.11),
            sleeve=float(sleeve),
            hem=leg - (rng.uniform(0.1, 0.2) if coat else rng.uniform(0.0, 0.045)),
            inner=_pick(rng, _TOPS, 7) if rng.random() < (0.6 if coat else 0.18) else None,
            bottom_kind=kind,
            bottom=_pick(rng, _BOTTOMS, 7, _BOTTOM_ODDS),
            bottom_length=float(covered.get(kind, rng.uniform(0.4, 0.7))),
            shoes=_pick(rng, _SHOES, 8),
            bag=BAGS[rng.choice(4, p=(0.5, 0.22, 0.14, 0.14))],
            bag_colour=_pick(rng, _BAGS, 8),
            bag_side=int(rng.choice((-1, 1))),
            stride=rng.uniform(0.3, 0.5),
        )


def _pick(
    rng: np.random.Generator, colours: tuple[Colour, ...], spread: float, odds: tuple[float, ...] | None = None
) -> Colour:
    base = np.array(colours[rng.choice(len(colours), p=odds)], dtype=np.float64)
    r, g, b = np.clip(base * rng.uniform(0.9, 1.1) + rng.normal(0, spread, 3), 12, 245).astype(int).tolist()
    return r, g, b

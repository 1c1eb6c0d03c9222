"""What the stages of the identity seeking did, and the noise that each left."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from reidzoo.training.labels._seeking_links import find_links
from reidzoo.training.labels._seeking_tracklets import Ints, Tracklets

_PIECE = 1 << 15  # images in memory at a time
_PAIRS = 200_000  # of groups that are drawn at random, at most,
_ROWS = 1 << 12  # compared at a time
SIZES = (1, 2, 5, 10, 20, 50, 100, 400)  # where the classes of the histogram begin


@dataclass(frozen=True)
class Stage:
    """The labels after one stage, seen as the noise that section 3.1 of the CION paper defines.

    Attributes:
        name: Of the stage.
        images: That have a label.
        groups: With at least one image.
        wide: Share of the groups with an image `sigma_cst` or farther from the centroid (intra-identity noise).
        close: Ordered pairs of groups within the window whose centroids are closer than `sigma_drm` (inter-identity
            noise).
        close_anywhere: Share of pairs closer than that among pairs drawn from all groups.
    """

    name: str
    images: int
    groups: int
    wide: float
    close: int
    close_anywhere: float


@dataclass(eq=False)
class SeekReport:
    """What happened on the way from tracklets to identities.

    Attributes:
        settings: Of the run.
        stages: One row each.
        excluded: Images that stage 1 took from their tracklets,
        reassigned: of which stage 2 gave so many to another tracklet of the video,
        regrouped: so many became tracklets of their own,
        discarded: and so many have no identity; a recheck adds to them.
        merged: Tracklets that stage 2 merged into others.
        links: Pairs that stage 3 found (with the guard: looked at),
        refused: of which the guard refused so many.
        identities: At the end.
        images: That have one.
        histogram: Identities by the least number of images: {1: ..., 2: ..., 5: ...}.
        largest: Images of the ten largest identities.
    """

    settings: dict[str, Any]
    stages: list[Stage] = field(default_factory=list)
    excluded: int = 0
    reassigned: int = 0
    regrouped: int = 0
    discarded: int = 0
    merged: int = 0
    links: int = 0
    refused: int = 0
    identities: int = 0
    images: int = 0
    histogram: dict[int, int] = field(default_factory=dict)
    largest: list[int] = field(default_factory=list)

    HEADER = ("stage", "images", "groups", "too wide", "too close", "of all pairs")

    def add(self, stage: Stage) -> None:
        """Append the state after a stage."""
        self.stages.append(stage)

    def finish(self, labels: Ints) -> None:
        """Count what came out."""
        sizes = np.bincount(labels[labels >= 0])
        self.identities, self.images = len(sizes), int(sizes.sum())
        which = np.searchsorted(SIZES, sizes, "right") - 1
        self.histogram = dict(zip(SIZES, np.bincount(which, minlength=len(SIZES)).tolist(), strict=True))
        self.largest = np.sort(sizes)[::-1][:10].tolist()

    def rows(self) -> list[tuple[str, str, str, str, str, str]]:
        """Cells of the table of stages, under `HEADER`."""
        return [
            (s.name, f"{s.images:,}", f"{s.groups:,}", f"{s.wide:.2%}", f"{s.close:,}", f"{s.close_anywhere:.4%}")
            for s in self.stages
        ]

    def lines(self) -> list[tuple[str, str]]:
        """What was counted, as name and text."""
        s = self.settings
        classes = [f"{n:,} of {low}" for low, n in self.histogram.items() if n]
        counted = (
            f"{self.excluded:,} images: {self.reassigned:,} to another tracklet, {self.regrouped:,} to a new one, "
            f"{self.discarded:,} discarded"
        )
        joined = f"{self.merged:,} tracklets in videos, then {self.links:,} links across, {self.refused:,} refused"
        return [
            ("thresholds", f"sigma_cst {s['sigma_cst']:.4g}, sigma_drm {s['sigma_drm']:.4g}, window {s['window']}"),
            ("excluded", counted),
            ("joined", joined),
            ("identities", f"{self.identities:,} with {self.images:,} images"),
            ("by size", ", ".join(classes) + " and more" if classes else "none"),
            ("largest", ", ".join(f"{n:,}" for n in self.largest[:5])),
        ]

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON knows it."""
        return asdict(self)


def measure(
    name: str,
    tracklets: Tracklets,
    of: Ints,
    sums: Tensor,
    stop: Ints,
    sigma_cst: float,
    sigma_drm: float,
    radius: Tensor | None = None,
) -> Stage:
    """Measure the noise of a grouping.

    Args:
        name: Of the stage.
        tracklets: The images.
        of: (N,) group at each position, or -1.
        sums: (K, D) sums of unit features.
        stop: (K,) where the window of every group ends.
        sigma_cst: Radius from which a group counts as too wide.
        sigma_drm: Distance below which two count as too close.
        radius: (K,) where it is known; else the features are read.
    """
    images = np.bincount(of[of >= 0], minlength=len(sums))
    filled = images > 0
    far = radii(tracklets, of, sums) if radius is None else radius.numpy()
    close = sum(len(a) for a, _, _ in find_links(sums, stop, sigma_drm, tracklets.device))
    return Stage(
        name=name,
        images=int(images.sum()),
        groups=int(filled.sum()),
        wide=float((far[filled] >= sigma_cst).mean()) if filled.any() else 0.0,
        close=2 * close,
        close_anywhere=_random_share(sums[torch.from_numpy(filled)], sigma_drm),
    )


def radii(tracklets: Tracklets, of: Ints, sums: Tensor) -> NDArray[np.float32]:
    """(K,) largest cosine distance of an image of each group to its centroid."""
    radius = np.zeros(len(sums), np.float32)
    for a in range(0, len(of), _PIECE):
        group = of[a : a + _PIECE]
        x = tracklets.take(slice(a, a + _PIECE))[torch.from_numpy(group >= 0).to(tracklets.device)]
        group = group[group >= 0]
        unit = F.normalize(sums[torch.from_numpy(group)].to(x.device), dim=1)
        np.maximum.at(radius, group, (1 - (x * unit).sum(1)).cpu().numpy())
    return radius


def _random_share(sums: Tensor, sigma: float) -> float:
    """Share of pairs closer than `sigma` among pairs of groups drawn at random."""
    if len(sums) < 2:
        return 0.0
    rng, count = np.random.default_rng(0), min(_PAIRS, 50 * len(sums))
    a = rng.integers(0, len(sums), count)
    b = (a + rng.integers(1, len(sums), count)) % len(sums)
    close = 0
    for i in range(0, count, _ROWS):
        left, right = (F.normalize(sums[torch.from_numpy(v[i : i + _ROWS])], dim=1) for v in (a, b))
        close += int((1 - (left * right).sum(1) < sigma).sum())
    return close / count

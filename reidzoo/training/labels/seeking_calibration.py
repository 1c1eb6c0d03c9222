"""Distances for the identity seeking that suit an extractor, measured on a labelled data set."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reidzoo.errors import ConfigError, DataError
from reidzoo.training.labels._seeking_tracklets import Ints
from reidzoo.training.labels.seeking_config import SeekConfig

_CLEAN = 0.99  # share of clean images that stage 1 may keep
_FALSE_LINKS = 0.5e-3  # per tracklet
_ROWS = 1024  # groups compared at a time
_MOST = 20_000  # groups
_FEWEST = 20
_TAIL = 1 << 20  # smallest distances that are kept
_PAPER = SeekConfig()


@dataclass(frozen=True)
class Thresholds:
    """What `calibrate_thresholds` measured.

    Attributes:
        sigma_cst: Distance below which 99 % of clean images are to the rest of their tracklet.
        sigma_drm: Largest distance with at most 0.5 expected false links per 1000 tracklets; below `sigma_cst`.
        linked: Share of the pairs of one identity that are closer than `sigma_drm`.
        groups: Tracklet-like groups that were measured,
        pairs: and pairs of them with different identities.
        needed: Pairs that it takes to see one false link at the wanted rate; with fewer, `sigma_drm` continues the
            tail of what was seen as a normal distribution's.
    """

    sigma_cst: float
    sigma_drm: float
    linked: float
    groups: int
    pairs: int
    needed: int

    def apply(self, config: SeekConfig | None = None) -> SeekConfig:
        """Return `config` with these distances; the guard's radius keeps its proportion to `sigma_drm`."""
        config = config or SeekConfig()
        radius = min(2.0, self.sigma_drm * _PAPER.max_radius / _PAPER.sigma_drm)
        return replace(config, sigma_cst=self.sigma_cst, sigma_drm=self.sigma_drm, max_radius=radius)

    def __str__(self) -> str:
        few = f"; {self.needed:,} would be needed to see the rate of false links" if self.pairs < self.needed else ""
        return (
            f"sigma_cst {self.sigma_cst:.3f} (paper {_PAPER.sigma_cst}), sigma_drm {self.sigma_drm:.3f} (paper "
            f"{_PAPER.sigma_drm}), which links {self.linked:.1%} of the pairs of one identity; from {self.groups:,} "
            f"groups, {self.pairs:,} pairs{few}"
        )

    def to_dict(self) -> dict[str, float]:
        """The fields, as JSON knows them."""
        return asdict(self)


def calibrate_thresholds(
    features: ArrayLike,
    pids: ArrayLike,
    camids: ArrayLike,
    *,
    window: int = _PAPER.window,
    tracklets: int | None = None,
    group_size: tuple[int, int] = (4, 20),
    seed: int = 0,
) -> Thresholds:
    """Choose the distances of `SeekConfig` for an extractor from a labelled data set, like Market-1501's train split.

    Images of one identity by one camera are drawn into groups that are like tracklets. `sigma_cst` is the 99th
    percentile of the distance of an image to the rest of its group. `sigma_drm` is the largest distance for which the
    probability that two groups of different identities are closer is 0.5 / (1000 window): as a tracklet takes part in
    `window` pairs on average, 0.5 false links per 1000 tracklets are expected.

    Args:
        features: (N, D) real numbers, by the extractor that the seeking will use.
        pids: (N,) identities; negative ones are left out.
        camids: (N,) cameras; -1: not known.
        window: Of the seeking; 0: none.
        tracklets: That the seeking starts from; where there are few, a tracklet is in fewer pairs. None: a multitude.
        group_size: Fewest and most images of a group.
        seed: Of the drawing.

    Raises:
        DataError: Columns of other lengths, fewer than 20 groups, only one identity, or a feature that is NaN or zero.
        ConfigError: There is no window, and no number of tracklets.
    """
    x = np.asarray(features, dtype=np.float32)
    pid, cam = np.asarray(pids), np.asarray(camids)
    if x.ndim != 2 or pid.shape != (len(x),) or cam.shape != (len(x),):
        raise DataError(f"features {x.shape}, pids {pid.shape} and camids {cam.shape}: expected (N, D), (N,) and (N,).")
    rng = np.random.default_rng(seed)
    rows, start = _draw_groups(pid, cam, group_size, rng)
    owner, camera = pid[rows[start[:-1]]], cam[rows[start[:-1]]]
    if len(owner) < _FEWEST or len(np.unique(owner)) < 2:
        raise DataError(
            f"There are {len(owner)} groups of at least {group_size[0]} images of one identity by one camera, of "
            f"{len(np.unique(owner))} identities; expected at least {_FEWEST} of 2. Take a larger labelled data set."
        )
    x = x[rows]
    length = np.linalg.norm(x, axis=1, keepdims=True)
    if not (np.isfinite(length) & (length > 0)).all():
        raise DataError("A feature is zero, NaN or infinite. Extract the features again.")
    x = x / length
    sums = np.add.reduceat(x, start[:-1])
    sigma_cst = float(np.quantile(_to_the_rest(x, sums, np.diff(start)), _CLEAN))
    if window == 0 and tracklets is None:
        raise ConfigError("Without a window, a tracklet is compared with all: say how many there are (tracklets=N).")
    each = min(window or np.inf, np.inf if tracklets is None else tracklets / 2)  # pairs of a tracklet, on average
    rate = _FALSE_LINKS / max(each, 1.0)
    limit, same, pairs = _between_groups(sums, owner, camera, rate)
    sigma_drm = min(limit, sigma_cst * _PAPER.sigma_drm / _PAPER.sigma_cst)
    linked = float((same < sigma_drm).mean()) if len(same) else float("nan")
    return Thresholds(sigma_cst, sigma_drm, linked, len(owner), pairs, round(1 / rate))


def _draw_groups(pid: Ints, cam: Ints, size: tuple[int, int], rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Rows of all groups one behind the other, and where each begins."""
    rows = rng.permutation(np.flatnonzero(pid >= 0))
    rows = rows[np.lexsort((cam[rows], pid[rows]))]
    new = np.ones(len(rows), bool)
    new[1:] = (pid[rows[1:]] != pid[rows[:-1]]) | (cam[rows[1:]] != cam[rows[:-1]])
    first = np.flatnonzero(new)
    place = np.arange(len(rows)) - np.repeat(first, np.diff(np.append(first, len(rows))))
    begin = np.flatnonzero(place % size[1] == 0)
    length = np.diff(np.append(begin, len(rows)))
    chosen = np.flatnonzero(length >= size[0])
    if len(chosen) > _MOST:
        chosen = np.sort(rng.permutation(chosen)[:_MOST])
    length = length[chosen]
    start = np.append(0, np.cumsum(length))
    return rows[np.repeat(begin[chosen] - start[:-1], length) + np.arange(start[-1])], start


def _to_the_rest(x: NDArray[np.float32], sums: NDArray[np.float32], sizes: Ints) -> NDArray[np.float32]:
    """(n,) distance of every unit row to the centroid of the others of its group."""
    others = np.repeat(sums, sizes, axis=0) - x
    found: NDArray[np.float32] = 1 - (x * others).sum(1) / np.linalg.norm(others, axis=1)
    return found


def _between_groups(
    sums: NDArray[np.float32], owner: Ints, camera: Ints, rate: float
) -> tuple[float, NDArray[np.float32], int]:
    """The distance below which a share `rate` of pairs with different owners is, those of one owner, and the pairs."""
    unit = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    _, images = np.unique(owner, return_counts=True)
    pairs = int(len(owner) * (len(owner) - 1) // 2 - (images * (images - 1) // 2).sum())
    enough = max(int(rate * pairs) + 1, min(pairs, _TAIL))
    nearest, same = np.empty(0, np.float32), []
    known = bool((camera >= 0).any())
    for a in range(0, len(unit), _ROWS):
        distance = 1 - unit[a : a + _ROWS] @ unit[a:].T
        ahead = np.arange(distance.shape[1]) > np.arange(len(distance))[:, None]
        one = owner[a : a + _ROWS, None] == owner[a:]
        other_view = (camera[a : a + _ROWS, None] != camera[a:]) | (not known)
        same.append(distance[one & ahead & other_view])
        nearest = np.concatenate([nearest, distance[~one & ahead]])
        if len(nearest) > enough:
            nearest = np.partition(nearest, enough - 1)[:enough]
    return _lower_quantile(np.sort(nearest), pairs, rate), np.concatenate(same), pairs


def _lower_quantile(nearest: NDArray[np.float32], pairs: int, rate: float) -> float:
    """The distance below which a share `rate` of the pairs is.

    With too few pairs to have seen it, the tail is taken to be a normal distribution's, drawn through two small shares
    that were seen (10 pairs, 0.5 %): look-alikes make it another one than the bulk's.

    Args:
        nearest: The smallest distances, ascending.
        pairs: That they are the smallest of.
        rate: Share.
    """
    allowed = int(rate * pairs)
    if allowed:
        return float(nearest[allowed])  # so many are closer
    normal = NormalDist().inv_cdf
    low, high = min(10, len(nearest)), min(max(pairs // 200, 50), len(nearest))
    if high <= low:
        return float(nearest[0]) / 2
    a, b = normal(low / (pairs + 1)), normal(high / (pairs + 1))
    slope = float(nearest[high - 1] - nearest[low - 1]) / (b - a)
    found = float(nearest[low - 1]) + slope * (normal(rate) - a)
    return max(min(found, float(nearest[0])), float(nearest[0]) / 2)

"""Images in the order of their videos and tracklets, the features read piece by piece; stage 1 of the seeking."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from reidzoo.errors import DataError

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_PIECE = 1 << 15  # images in memory at a time
_GRAM = 512  # images up to which the products of all pairs of a tracklet are kept
_TIE = 1e-6  # distances closer than this differ by rounding only
_ROWS = 512  # excluded images that look for a tracklet at a time
_COLUMNS = 1 << 15  # tracklets that they are compared with at a time


@dataclass(frozen=True, eq=False)
class Tracklets:
    """Images grouped in consecutive tracklets.

    Attributes:
        features: (N, D) real numbers in the caller's order, rows of any length; may be a memory map.
        order: (N,) row of `features` at every position of the sequence.
        start: (T + 1,) first position of every tracklet; the last entry is N.
        video: (T,) number of the tracklet's video, not decreasing.
        device: Where the arithmetic is done.
    """

    features: NDArray[np.floating]
    order: Ints
    start: Ints
    video: Ints
    device: torch.device

    @classmethod
    def sorted(
        cls,
        features: NDArray[np.floating],
        video_ids: ArrayLike,
        tracklet_ids: ArrayLike,
        frame_ids: ArrayLike | None,
        device: torch.device,
    ) -> Tracklets:
        """Sort images by video, by the tracklet's first frame and number, and by frame.

        Raises:
            DataError: There is no image, or the columns have not one length.
        """
        n = len(features)
        columns = {"video_ids": np.asarray(video_ids), "tracklet_ids": np.asarray(tracklet_ids)}
        if frame_ids is not None:
            columns["frame_ids"] = np.asarray(frame_ids)
        for name, column in columns.items():
            if column.shape != (n,):
                raise DataError(f"{name} has the shape {column.shape}; expected one value per feature, ({n},).")
        if n == 0 or features.ndim != 2:
            raise DataError(f"features has the shape {features.shape}; expected (N, D) with at least one image.")
        video = _numbered(columns["video_ids"])
        tracklet = _numbered(columns["tracklet_ids"])
        frame = columns.get("frame_ids", np.zeros(n, np.int8))
        order = np.lexsort((frame, tracklet, video))
        first = _first(video[order], tracklet[order])
        if frame_ids is not None:
            group = np.repeat(np.arange(len(first)), np.diff(np.append(first, n)))
            at = order[first]
            place = np.empty(len(first), np.int64)
            place[np.lexsort((tracklet[at], frame[at], video[at]))] = np.arange(len(first))
            order = order[np.argsort(place[group], kind="stable")]
            first = _first(video[order], tracklet[order])
        return cls(features, order, np.append(first, n), video[order[first]], device)

    def __len__(self) -> int:
        return len(self.video)

    @property
    def sizes(self) -> Ints:
        """(T,) images of every tracklet."""
        return np.diff(self.start)

    def take(self, positions: slice | Ints) -> Tensor:
        """Return the features (n, D) at `positions` of the sequence, each of length 1, float32.

        Raises:
            DataError: A feature is zero, NaN or infinite.
        """
        rows = self.order[positions]
        consecutive = len(rows) > 0 and rows[-1] - rows[0] == len(rows) - 1 and bool((np.diff(rows) == 1).all())
        found = self.features[rows[0] : rows[-1] + 1] if consecutive else self.features[rows]
        x = torch.from_numpy(np.array(found, dtype=np.float32)).to(self.device)
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        bad = ~(length.isfinite() & (length > 0))
        if bool(bad.any()):
            row = int(rows[int(bad.flatten().nonzero()[0])])
            raise DataError(
                f"The feature of image {row} is zero, NaN or infinite. Extract the features again, and leave out "
                "images that cannot be read."
            )
        return torch.div(x, length)

    def pieces(self) -> Iterator[tuple[int, int]]:
        """Yield ranges of tracklets with some ten thousand images together."""
        a = 0
        while a < len(self):
            b = int(np.searchsorted(self.start, self.start[a] + _PIECE, "right")) - 1
            yield a, max(b, a + 1)
            a = max(b, a + 1)


def _numbered(values: NDArray[np.generic]) -> Ints:
    """(N,) numbers from 0, in the order of the values."""
    return np.asarray(np.unique(values, return_inverse=True)[1].reshape(-1), np.int64)


def _first(video: Ints, tracklet: Ints) -> Ints:
    """Positions at which another tracklet begins."""
    new = np.ones(len(video), bool)
    new[1:] = (np.diff(video) != 0) | (np.diff(tracklet) != 0)
    return np.flatnonzero(new)


@dataclass(frozen=True, eq=False)
class Denoised:
    """What stage 1 found.

    Attributes:
        keep: (N,) whether the image at a position stays in its tracklet.
        raw_sums: (T, D) sum of the unit features of all images of a tracklet.
        raw_radius: (T,) largest distance of an image to that centroid.
        sums: (T, D) sum over those that stay.
        radius: (T,) largest distance of one that stays to their centroid.
    """

    keep: Bools
    raw_sums: Tensor
    raw_radius: Tensor
    sums: Tensor
    radius: Tensor


def denoise(tracklets: Tracklets, sigma: float, min_fraction: float = 0.0) -> Denoised:
    """Stage 1: exclude from each tracklet, one by one, the image that is farthest from the others' centroid.

    Args:
        tracklets: T tracklets.
        sigma: Cosine distance to the centroid of the others from which an image is excluded.
        min_fraction: A tracklet that keeps a smaller part of its images is excluded as a whole.
    """
    count, dim = len(tracklets), tracklets.features.shape[1]
    keep = np.ones(len(tracklets.order), bool)
    raw_sums, sums = torch.zeros(count, dim), torch.zeros(count, dim)
    raw_radius, radius = torch.zeros(count), torch.zeros(count)
    for a, b in tracklets.pieces():
        start = int(tracklets.start[a])
        x, sizes = tracklets.take(slice(start, int(tracklets.start[b]))), tracklets.sizes[a:b]
        for m in np.unique(sizes).tolist():
            # Tracklets of one length stand in one array without padding: there are few lengths and many tracklets.
            which = np.flatnonzero(sizes == m)
            at = tracklets.start[a + which][:, None] + np.arange(m)
            group = x[torch.from_numpy(at - start).to(x.device)]
            kept = keep_consistent(group, sigma)
            kept &= kept.sum(1, keepdim=True) >= min_fraction * m
            keep[at.ravel()] = kept.flatten().cpu().numpy()
            index = torch.from_numpy(a + which)
            for mask, total, far in ((torch.ones_like(kept), raw_sums, raw_radius), (kept, sums, radius)):
                s = (group * mask[..., None]).sum(1)
                total[index] = s.cpu()
                far[index] = _distances(group, s).masked_fill(~mask, 0).amax(1).cpu()
    return Denoised(keep, raw_sums, raw_radius, sums, radius)


def _distances(x: Tensor, sums: Tensor) -> Tensor:
    """Cosine distances (g, m) of unit rows (g, m, d) to the direction of (g, d)."""
    unit = torch.nn.functional.normalize(sums, dim=1)
    return 1 - torch.einsum("gmd,gd->gm", x, unit)


def keep_consistent(x: Tensor, sigma: float) -> Tensor:
    """Say which images of each tracklet agree with the rest of it.

    With s the sum of the unit features that are left and a_i = x_i . s, the distance of image i to the centroid of the
    others is 1 - (a_i - 1) / sqrt(|s|^2 - 2 a_i + 1): no centroid has to be made.

    Args:
        x: (g, m, d) unit features of g tracklets with m images each.
        sigma: Distance from which the farthest image is excluded; then the rest is looked at again.

    Returns:
        (g, m) bool; at least one image of each tracklet stays.
    """
    keep = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    gram = x @ x.mT if x.shape[1] <= _GRAM else None
    affinity, own = torch.einsum("gmd,gd->gm", x, x.sum(1)), x.square().sum(2)
    place = torch.arange(x.shape[1], device=x.device)
    live = torch.arange(len(x) if x.shape[1] > 1 else 0, device=x.device)
    while len(live):
        kept, a, one = keep[live], affinity[live], own[live]
        others = (a * kept).sum(1, keepdim=True) - 2 * a + one
        distance = 1 - (a - one) / (others * one).clamp_min(_TIE).sqrt()
        distance = torch.where(others > _TIE, distance, 1.0).masked_fill(~kept, -torch.inf)
        most = distance.amax(1)
        # Of several at one distance (as always the last two) the latest goes, whatever the rounding.
        worst = ((distance >= most[:, None] - _TIE) * place).amax(1)
        go = (most >= sigma) & (kept.sum(1) > 1)
        live, worst = live[go], worst[go]
        keep[live, worst] = False
        affinity[live] -= gram[live, worst] if gram is not None else torch.einsum("gmd,gd->gm", x[live], x[live, worst])
    return keep


def reassign(tracklets: Tracklets, excluded: Ints, sums: Tensor, sigma: float) -> Ints:
    """Stage 2a: find the nearest of the other tracklets of its video for every excluded image.

    Args:
        tracklets: T tracklets.
        excluded: (n,) positions, ascending.
        sums: (T, D) of the images that stayed; zero for a tracklet without any.
        sigma: Only a centroid closer than this is taken.

    Returns:
        (n,) tracklet, or -1 where none is close enough.
    """
    own = np.searchsorted(tracklets.start, excluded, "right") - 1
    first = np.searchsorted(tracklets.video, tracklets.video[own], "left")
    stop = np.searchsorted(tracklets.video, tracklets.video[own], "right")
    found = np.full(len(excluded), -1, np.int64)
    for i in range(0, len(excluded), _ROWS):
        part = slice(i, i + _ROWS)
        x = tracklets.take(excluded[part])
        low, high, mine = (torch.from_numpy(v[part]).to(x.device)[:, None] for v in (first, stop, own))
        nearest = x.new_full((len(x),), sigma)
        for c in range(int(first[part].min()), int(stop[part].max()), _COLUMNS):
            column = torch.arange(c, min(c + _COLUMNS, int(stop[part].max())), device=x.device)
            unit = torch.nn.functional.normalize(sums[c : c + len(column)].to(x.device), dim=1)
            distance = 1 - x @ unit.T
            distance.masked_fill_((column < low) | (column >= high) | (column == mine), torch.inf)
            value, index = distance.min(1)
            closer = (value < nearest).cpu().numpy()
            found[part][closer] = c + index.cpu().numpy()[closer]
            nearest = torch.minimum(nearest, value)
    return found

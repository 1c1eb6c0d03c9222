"""Progressive identity correlation seeking: from tracklets of many videos to identities (Zuo et al., NeurIPS 2024).

The construction of CION-AL, section 3.2 of the paper, for which no code was released. A tracker's tracklet is a first
guess of an identity. Three stages put it right, each looking farther than the one before: within a tracklet, images
that do not fit the others are excluded; within a video, they move to the tracklet that they fit, and tracklets of one
person are merged; across videos, tracklets are linked with those around them, and what is linked is one identity.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from reidzoo._logging import get_logger
from reidzoo.training.labels._seeking_links import (
    NEAREST,
    close_all,
    close_guarded,
    find_links,
    find_links_with_faiss,
)
from reidzoo.training.labels._seeking_tracklets import Ints, Tracklets, denoise, reassign
from reidzoo.training.labels.seeking_config import SeekConfig
from reidzoo.training.labels.seeking_report import SeekReport, Stage, measure

_logger = get_logger(__name__)

_EXACT = 1 << 19  # groups up to which all pairs are compared where there is no window
_MANY = 0.3  # of the images


def seek_identities(
    features: ArrayLike,
    video_ids: ArrayLike,
    tracklet_ids: ArrayLike,
    *,
    frame_ids: ArrayLike | None = None,
    config: SeekConfig | None = None,
    device: str | torch.device = "auto",
    **overrides: Any,
) -> NDArray[np.int64]:
    """Find the identities of tracked persons; `seek` also tells what happened on the way.

    Args:
        features: (N, D) real numbers, one row per image, of any length; may be a memory map of float16.
        video_ids: (N,) the image's video. Videos that may show the same persons should be close to each other in the
            order of their ids: links reach `window` tracklets far.
        tracklet_ids: (N,) the image's tracklet, within its video.
        frame_ids: (N,) the image's frame. It orders the tracklets of a video; by default, their ids do.
        config: `SeekConfig`; by default the paper's distances.
        device: Where to multiply matrices; ``"auto"``: on a GPU if there is one.
        overrides: Settings of `SeekConfig` by name.

    Returns:
        (N,) int64 identities 0 .. M - 1, numbered in the order of videos and tracklets; -1: discarded.

    Raises:
        DataError: No images, columns of other lengths, or a feature that is zero, NaN or infinite.
        ConfigError: A setting is unknown or out of range.

    Example:
        >>> labels = seek_identities([[1, 0], [1, 0.1], [0, 1], [0.1, 1]], [0, 1, 0, 1], [0, 0, 1, 1])
        >>> labels.tolist()
        [0, 0, 1, 1]
    """
    columns = {"video_ids": video_ids, "tracklet_ids": tracklet_ids, "frame_ids": frame_ids}
    return seek(features, **columns, config=config, device=device, **overrides).labels  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Seeking:
    """What `seek` found.

    Attributes:
        labels: (N,) int64 identities 0 .. M - 1; -1: discarded.
        report: What every stage did.
    """

    labels: NDArray[np.int64]
    report: SeekReport


@dataclass(eq=False)
class _Groups:
    """Images grouped at one moment of the work.

    Attributes:
        of: (N,) group of the image at each position, -1: none.
        sums: (K, D) sums of their unit features.
        video: (K,) video of each, not decreasing; the first one where it comes from several.
    """

    of: Ints
    sums: Tensor
    video: Ints

    @property
    def images(self) -> Ints:
        """(K,) images of each group."""
        return np.bincount(self.of[self.of >= 0], minlength=len(self.sums))

    def merged(self, roots: Ints) -> _Groups:
        """Join groups with the same root, in the order of the roots."""
        first, number = np.unique(roots, return_inverse=True)
        number = number.reshape(-1)
        sums = torch.zeros(len(first), self.sums.shape[1]).index_add_(0, torch.from_numpy(number), self.sums)
        return _Groups(np.where(self.of >= 0, number[self.of], -1), sums, self.video[first])


def seek(
    features: ArrayLike,
    video_ids: ArrayLike,
    tracklet_ids: ArrayLike,
    *,
    frame_ids: ArrayLike | None = None,
    config: SeekConfig | None = None,
    device: str | torch.device = "auto",
    **overrides: Any,
) -> Seeking:
    """Find the identities of tracked persons, and report what every stage did.

    Memory is that of the tracklets' centroids (float32) and a few tiles; `features` are read piece by piece.

    Args:
        features: As for `seek_identities`, and so are the others.
        video_ids: (N,).
        tracklet_ids: (N,).
        frame_ids: (N,) or None.
        config: `SeekConfig`.
        device: Where to multiply matrices.
        overrides: Settings of `SeekConfig` by name.

    Raises:
        DataError: No images, columns of other lengths, or a feature that is zero, NaN or infinite.
        ConfigError: A setting is unknown or out of range.
    """
    options = SeekConfig.make(config, overrides)
    array = features if isinstance(features, np.ndarray) else np.asarray(features, dtype=np.float32)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    tracklets = Tracklets.sorted(array, video_ids, tracklet_ids, frame_ids, torch.device(device))
    report = SeekReport(asdict(options))
    groups = _within_tracklets(tracklets, options, report)
    groups = _within_videos(tracklets, groups, options, report)
    groups = _across_videos(tracklets, groups, options, report)
    if options.recheck:
        groups = _recheck(tracklets, groups, options, report)
    kept = select_identities(groups.of, options)
    report.finish(kept)
    if report.discarded > _MANY * len(kept):
        _logger.warning(
            "%.0f %% of the images fit neither their tracklet nor another one: sigma_cst=%g may not suit this "
            "extractor. Fit it on labelled images: calibrate_thresholds, reidzoo seek --calibrate.",
            100 * report.discarded / len(kept), options.sigma_cst,
        )  # fmt: skip
    labels = np.empty(len(kept), np.int64)
    labels[tracklets.order] = kept
    return Seeking(labels, report)


def _within_tracklets(tracklets: Tracklets, options: SeekConfig, report: SeekReport) -> _Groups:
    """Stage 1: exclude what does not fit its tracklet."""
    found = denoise(tracklets, options.sigma_cst, options.min_fraction)
    own = np.repeat(np.arange(len(tracklets)), tracklets.sizes)
    groups = _Groups(np.where(found.keep, own, -1), found.sums, tracklets.video)
    report.add(_stage("tracklets", tracklets, _Groups(own, found.raw_sums, tracklets.video), options, found.raw_radius))
    report.add(_stage("1 in a tracklet", tracklets, groups, options, found.radius))
    report.excluded = int((~found.keep).sum())
    return groups


def _within_videos(tracklets: Tracklets, groups: _Groups, options: SeekConfig, report: SeekReport) -> _Groups:
    """Stage 2: give excluded images to the tracklet that they fit, then merge tracklets of one person."""
    excluded = np.flatnonzero(groups.of < 0)
    target = reassign(tracklets, excluded, groups.sums, options.sigma_cst)
    taken, to = excluded[target >= 0], target[target >= 0]
    for i in range(0, len(taken), 1 << 15):
        part = slice(i, i + (1 << 15))
        groups.sums.index_add_(0, torch.from_numpy(to[part]), tracklets.take(taken[part]).cpu())
    groups.of[taken] = to
    report.reassigned = len(taken)
    if options.regroup:
        groups = _regroup(tracklets, groups, options, report)
    report.discarded = int((groups.of < 0).sum())
    stop = np.searchsorted(groups.video, groups.video, "right")
    roots, _ = close_all(len(groups.sums), find_links(groups.sums, stop, options.sigma_drm, tracklets.device))
    merged = groups.merged(roots)
    report.merged = len(groups.sums) - len(merged.sums)
    report.add(_stage("2 in a video", tracklets, merged, options))
    return merged


def _regroup(tracklets: Tracklets, groups: _Groups, options: SeekConfig, report: SeekReport) -> _Groups:
    """Make tracklets of what was excluded from one tracklet and fits itself: a tracker went over to somebody else."""
    left = np.flatnonzero(groups.of < 0)
    if not len(left):
        return groups
    own = np.searchsorted(tracklets.start, left, "right") - 1
    source, first = np.unique(own, return_index=True)
    start = np.append(first, len(left))
    rest = Tracklets(tracklets.features, tracklets.order[left], start, tracklets.video[source], tracklets.device)
    found = denoise(rest, options.sigma_cst)
    piece = np.repeat(np.arange(len(source)), rest.sizes)
    images = np.bincount(piece[found.keep], minlength=len(source))
    new = np.flatnonzero(images > 1)
    # Each new one stands behind the tracklet that it comes from.
    behind = np.argsort(np.concatenate([np.arange(len(groups.sums)), source[new] + 0.5]), kind="stable")
    number = np.empty(len(behind), np.int64)
    number[behind] = np.arange(len(behind))
    of = np.where(groups.of >= 0, number[groups.of], -1)
    place = np.full(len(source), -1)
    place[new] = number[len(groups.sums) :]
    of[left[found.keep]] = place[piece[found.keep]]
    report.regrouped = int(images[new].sum())
    sums = torch.cat([groups.sums, found.sums[torch.from_numpy(new)]])[torch.from_numpy(behind)]
    return _Groups(of, sums, np.concatenate([groups.video, rest.video[new]])[behind])


def _across_videos(tracklets: Tracklets, groups: _Groups, options: SeekConfig, report: SeekReport) -> _Groups:
    """Stage 3: link what is close within the window, and join what is linked."""
    count = len(groups.sums)
    nearest = NEAREST if options.guard else None
    if options.window or count <= _EXACT:
        stop = _window(count, options.window or count)
        links = find_links(groups.sums, stop, options.sigma_drm, tracklets.device, nearest=nearest)
    else:
        _logger.info("%s tracklets without a window: links are searched with an inverted file of faiss.", f"{count:,}")
        links = find_links_with_faiss(groups.sums, options.sigma_drm)
    if options.guard:
        roots, report.links, report.refused = close_guarded(
            groups.sums, groups.images, links, options.max_radius, options.max_images
        )
    else:
        roots, report.links = close_all(count, links)
    joined = groups.merged(roots)
    report.add(_stage("3 across videos", tracklets, joined, options))
    return joined


def _recheck(tracklets: Tracklets, groups: _Groups, options: SeekConfig, report: SeekReport) -> _Groups:
    """Do with the identities what stage 1 does with tracklets; what is excluded now is discarded."""
    at = np.argsort(groups.of, kind="stable")
    at = at[groups.of[at] >= 0]
    present, first = np.unique(groups.of[at], return_index=True)
    start = np.append(first, len(at))
    again = Tracklets(tracklets.features, tracklets.order[at], start, groups.video[present], tracklets.device)
    found = denoise(again, options.sigma_cst)
    of = groups.of.copy()
    of[at[~found.keep]] = -1
    sums = torch.zeros_like(groups.sums)
    sums[torch.from_numpy(present)] = found.sums
    report.discarded += int((~found.keep).sum())
    rechecked = _Groups(of, sums, groups.video)
    report.add(_stage("recheck", tracklets, rechecked, options))
    return rechecked


def _window(count: int, reach: int) -> Ints:
    """(K,) where the window ahead of every group ends."""
    return np.minimum(np.arange(count) + reach + 1, count)


def _stage(
    name: str, tracklets: Tracklets, groups: _Groups, options: SeekConfig, radius: Tensor | None = None
) -> Stage:
    """Measure the noise that is left."""
    stop = _window(len(groups.sums), options.window or SeekConfig.window)
    return measure(name, tracklets, groups.of, groups.sums, stop, options.sigma_cst, options.sigma_drm, radius)


def select_identities(labels: Ints, options: SeekConfig) -> Ints:
    """Leave out small identities, cut large ones, draw whole ones until there are `target_images`.

    Args:
        labels: (N,) identity or -1.
        options: `min_images`, `max_per_id`, `target_images` and `seed` of it.

    Returns:
        (N,) identities 0 .. M - 1 in the order of their first image, or -1.
    """
    rng = np.random.default_rng(options.seed)
    count = int(labels.max(initial=-1)) + 1
    of = labels.copy()
    if options.max_per_id:
        order = np.lexsort((rng.random(len(of)), of))
        place = np.arange(len(of)) - np.searchsorted(of[order], of[order], "left")
        of[order[place >= options.max_per_id]] = -1
    images = np.bincount(of[of >= 0], minlength=count)
    images[np.bincount(labels[labels >= 0], minlength=count) < options.min_images] = 0
    keep = images > 0
    if options.target_images:
        drawn = rng.permutation(np.flatnonzero(keep))
        keep[drawn[np.cumsum(images[drawn]) > options.target_images]] = False
    of[of >= 0] = np.where(keep[of[of >= 0]], of[of >= 0], -1)
    present, first = np.unique(of[of >= 0], return_index=True)
    number = np.full(count + 1, -1)  # the last one is for -1
    number[present[np.argsort(first)]] = np.arange(len(present))
    return np.asarray(number[of])

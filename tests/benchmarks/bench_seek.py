"""Identities sought in tracklets with known truth: pairwise F beside DBSCAN, seconds and memory.

    python tests/benchmarks/bench_seek.py                        # F-scores over 3 seeds
    python tests/benchmarks/bench_seek.py --images 1000000       # time and memory of `seek` at that size

Features are drawn: a person is a direction near one of a few styles (look-alikes), seen in one to four neighbouring
videos, in each as one to three tracklets of 5 to 20 images, with a shift of its own per video and noise per image. Then
the tracker's mistakes: images swapped between the tracklets of a video, tracklets that go over to somebody else half
way, and images without a person. DBSCAN gets the best of many radii, chosen by the truth, on the same images and on the
means of the tracklets. In the F-score a discarded image is a group of its own: it costs recall.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reidzoo.training.labels.seeking import seek
from reidzoo.training.labels.seeking_calibration import calibrate_thresholds

OWN, SHIFT, NOISE = 0.7, 0.3, (0.4, 0.7)  # lengths of what is added to a direction of length 1

RADII = np.arange(0.04, 0.42, 0.02)  # of DBSCAN


class Drawn(NamedTuple):
    """Features (N, D) with the image's video and tracklet, and who is on it (a number of its own if nobody)."""

    features: np.ndarray
    video: np.ndarray
    tracklet: np.ndarray
    truth: np.ndarray


def draw(
    persons: int,
    *,
    per_video: int = 12,
    dim: int = 256,
    swapped: float = 0.05,
    mixed: float = 0.1,
    junk: float = 0.02,
    seed: int = 0,
    out: Path | None = None,
) -> Drawn:
    """Draw the tracklets of `persons` people; `out` is a file for features that should not be in memory."""
    rng = np.random.default_rng(seed)
    videos = max(2, persons // per_video)
    times = rng.integers(1, 5, persons)  # videos in which a person is seen
    seen_by = np.repeat(np.arange(persons), times)
    step = np.arange(len(seen_by)) - np.repeat(np.cumsum(times) - times, times)
    seen_in = (np.repeat(rng.integers(0, videos, persons), times) + step) % videos
    parts = rng.integers(1, 4, len(seen_by))  # the tracker loses a person now and then
    order = np.argsort(np.repeat(seen_in, parts), kind="stable")
    sighting = np.repeat(np.arange(len(seen_by)), parts)[order]
    size = rng.integers(5, 21, len(sighting))
    tracklet = np.repeat(np.arange(len(sighting)), size)
    video = seen_in[sighting][tracklet]
    shown = sighting[tracklet]  # which sighting each image shows

    first, last = np.searchsorted(seen_in[sighting], video), np.searchsorted(seen_in[sighting], video, "right")
    somebody = sighting[(first + rng.random(len(video)) * (last - first)).astype(int)]
    place = np.arange(len(video)) - np.repeat(np.cumsum(size) - size, size)
    turn = np.where(rng.random(len(size)) < mixed, rng.uniform(0.5, 0.8, len(size)), 1.0) * size
    start = np.repeat(np.cumsum(size) - size, size)
    late = place >= turn[tracklet]
    shown = np.where(late, somebody[start], shown)  # the same other person to the end of the tracklet
    shown = np.where(rng.random(len(video)) < swapped, somebody, shown)
    empty = rng.random(len(video)) < junk
    truth = np.where(empty, persons + np.arange(len(video)), seen_by[shown])

    # As with real networks, few directions carry the persons, and fewer all that changes from image to image.
    axes = np.linalg.qr(rng.standard_normal((dim, 32 + 16), dtype=np.float32))[0].T
    style = directions(rng, 40, 32)[rng.integers(0, 40, persons)]
    identity = style + OWN * directions(rng, persons, 32)
    identity /= np.linalg.norm(identity, axis=1, keepdims=True)
    sightings = identity[seen_by] @ axes[:32] + SHIFT * directions(rng, len(seen_by), 16) @ axes[32:]
    shape = (len(video), dim)
    features = (
        np.empty(shape, np.float16) if out is None else np.lib.format.open_memmap(out, "w+", np.float16, shape)
    )  # fmt: skip
    for a in range(0, len(video), 1 << 15):
        part = slice(a, a + (1 << 15))
        noise = directions(rng, len(video[part]), 48) @ axes
        amount = rng.uniform(*NOISE, (len(noise), 1)).astype(np.float32)
        features[part] = np.where(empty[part, None], noise, sightings[shown[part]] + amount * noise)
    return Drawn(features, video, tracklet, truth)


def directions(rng: np.random.Generator, n: int, dim: int) -> np.ndarray:
    x = rng.standard_normal((n, dim), dtype=np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x


def pairwise_f(labels: np.ndarray, truth: np.ndarray) -> tuple[float, float, float]:
    """Return F, precision and recall over all pairs of images; -1 is a group of one."""
    labels = np.where(labels < 0, labels.max() + 1 + np.arange(len(labels)), labels)

    def pairs(*columns: np.ndarray) -> float:
        n = np.unique(np.stack(columns), axis=1, return_counts=True)[1].astype(float)
        return float((n * (n - 1) / 2).sum())

    right, said, true = pairs(labels, truth), pairs(labels), pairs(truth)
    precision, recall = right / max(said, 1), right / max(true, 1)
    return 2 * precision * recall / max(precision + recall, 1e-12), precision, recall


def dbscan(data: Drawn, *, means: bool, radii: np.ndarray = RADII) -> tuple[float, float, float, float]:
    """Return the best F of DBSCAN over its radius, with precision, recall and that radius."""
    from sklearn.cluster import DBSCAN

    x = data.features.astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    index = np.arange(len(x))
    if means:
        _, index = np.unique(data.tracklet, return_inverse=True)
        sums = np.zeros((index.max() + 1, x.shape[1]), np.float32)
        np.add.at(sums, index, x)
        x = sums
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    distance = np.maximum(1 - x @ x.T, 0)
    found = []
    for eps in radii:
        labels = DBSCAN(eps=eps, min_samples=1 if means else 4, metric="precomputed").fit_predict(distance)[index]
        found.append((*pairwise_f(labels, data.truth), float(eps)))
    return max(found)


def scores(persons: int, seeds: int) -> None:
    drawn = [draw(persons, seed=seed) for seed in range(seeds)]
    other = draw(persons, swapped=0, mixed=0, junk=0, seed=1000)  # other people, with their names
    fitted = asdict(calibrate_thresholds(other.features, other.truth, other.video, window=1000).apply())
    chosen = {"guard": False}, {}, {"regroup": True}, fitted
    names = "seek, guard=False (the paper)", "seek", "seek, regroup=True", "seek, calibrated"
    print(f"{'method':<36} {'F':>7} {'precision':>10} {'recall':>7}")
    for name, options in zip(names, chosen, strict=True):
        show(name, [pairwise_f(seek(d.features, d.video, d.tracklet, **options).labels, d.truth) for d in drawn])
    show("DBSCAN on images, best radius", [dbscan(d, means=False)[:3] for d in drawn])
    show("DBSCAN on tracklet means, best radius", [dbscan(d, means=True)[:3] for d in drawn])
    show("tracklets as they are", [pairwise_f(d.tracklet, d.truth) for d in drawn])
    print(f"{len(drawn[0].truth):,} images of {persons} persons per seed, {seeds} seeds")


def show(name: str, rows: list[tuple[float, ...]]) -> None:
    f, precision, recall = np.mean(rows, axis=0)
    print(f"{name:<36} {f:7.4f} {precision:10.4f} {recall:7.4f}", flush=True)


def large(images: int, dim: int, guard: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = draw(images // 62, dim=dim, out=Path(folder) / "features.npy")
        features = np.load(Path(folder) / "features.npy", mmap_mode="r")
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        start, cpu = time.perf_counter(), time.process_time()
        found = seek(features, data.video, data.tracklet, guard=guard)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        lines = Path("/proc/self/status").read_text().splitlines()
        peak = int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 2**20
    for stage in found.report.rows():
        print("  ".join(f"{cell:>16}" for cell in stage))
    for name, text in found.report.lines():
        print(f"{name:<12} {text}")
    print(f"{len(features):,} images of {dim} dimensions: {seconds:.1f} s ({cpu:.1f} CPU s), peak {peak:.2f} GB")
    print("F {:.4f}, precision {:.4f}, recall {:.4f}".format(*pairwise_f(found.labels, data.truth)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=0, help="about so many, for time and memory")
    parser.add_argument("--persons", type=int, default=150, help="for the F-scores")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--no-guard", action="store_true")
    args = parser.parse_args()
    if args.images:
        large(args.images, args.dim, not args.no_guard)
    else:
        scores(args.persons, args.seeds)


if __name__ == "__main__":
    main()

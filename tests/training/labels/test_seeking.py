"""The seeking against its definition, written again as plain loops in float64 (spec C.3)."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import reidzoo
from reidzoo.errors import ConfigError, DataError
from reidzoo.training.labels import _seeking_links as linking
from reidzoo.training.labels import _seeking_tracklets as reading
from reidzoo.training.labels._seeking_links import Closure, close_guarded, find_links, find_links_with_faiss
from reidzoo.training.labels._seeking_tracklets import keep_consistent
from reidzoo.training.labels.seeking import seek, select_identities
from reidzoo.training.labels.seeking_calibration import _lower_quantile, calibrate_thresholds
from reidzoo.training.labels.seeking_config import SeekConfig

CPU = torch.device("cpu")
BENCH = Path(__file__).parents[2] / "benchmarks" / "bench_seek.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_seek", BENCH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def drawn(bench: ModuleType):
    """About 2,400 images of 40 people, with the tracker's mistakes."""
    return bench.draw(40, per_video=5, dim=64, mixed=0.2, seed=3)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    return 1.0 if lengths < 1e-9 else 1 - float(a @ b) / lengths


def plain_exclusion(x: np.ndarray, rows: list[int], sigma: float) -> list[int]:
    """Rows that stay: the farthest from the centroid of the others goes, until all are near."""
    rows = list(rows)
    while len(rows) > 1:
        far = [cosine(x[i], sum(x[j] for j in rows if j != i)) for i in rows]
        most = max(far)
        if most < sigma:
            break
        rows.pop(max(k for k, d in enumerate(far) if d >= most - 1e-9))
    return rows


def plain_closure(groups: list[list[int]], linked: Callable[[int, int], bool]) -> list[list[int]]:
    left, found = list(range(len(groups))), []
    while left:
        component, border = {left[0]}, [left[0]]
        while border:
            a = border.pop()
            new = [b for b in left if b not in component and linked(a, b)]
            component |= set(new)
            border += new
        left = [b for b in left if b not in component]
        found.append([row for g in sorted(component) for row in groups[g]])
    return found


def plain_seek(features, video, tracklet, sigma_cst: float, sigma_drm: float, window: int) -> np.ndarray:
    x = features.astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    keys = sorted(set(zip(video.tolist(), tracklet.tolist(), strict=True)))
    rows_of = {key: [] for key in keys}
    for row, key in enumerate(zip(video.tolist(), tracklet.tolist(), strict=True)):
        rows_of[key].append(row)
    kept = {key: plain_exclusion(x, rows, sigma_cst) for key, rows in rows_of.items()}
    centroid = {key: x[rows].mean(0) for key, rows in kept.items()}
    moved = []
    for key in keys:
        for row in rows_of[key]:
            if row not in kept[key]:
                others = [(cosine(x[row], centroid[k]), k) for k in keys if k[0] == key[0] and k != key]
                if others and min(others)[0] < sigma_cst:
                    moved.append((min(others)[1], row))
    for key, row in moved:
        kept[key].append(row)
    elements: list[list[int]] = []
    for v in sorted(set(video.tolist())):
        groups = [kept[key] for key in keys if key[0] == v]
        mean = [x[rows].mean(0) for rows in groups]
        elements += plain_closure(groups, lambda a, b, m=mean: cosine(m[a], m[b]) < sigma_drm)
    mean = [x[rows].mean(0) for rows in elements]
    reach = window or len(elements)
    people = plain_closure(
        elements, lambda a, b: abs(a - b) <= reach and cosine(mean[a], mean[b]) < sigma_drm
    )  # fmt: skip
    labels = np.full(len(x), -1)
    for number, rows in enumerate(people):
        labels[rows] = number
    return labels


def same_groups(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two labelings leave out and put together the same rows, whatever the numbers."""
    pairs = len(np.unique(np.stack([a, b]), axis=1).T)
    return np.array_equal(a < 0, b < 0) and len(np.unique(a)) == len(np.unique(b)) == pairs


@pytest.mark.parametrize("window", [0, 15])
def test_labels_are_those_of_the_definition(drawn, window: int) -> None:
    features, video, tracklet, _ = drawn
    wanted = plain_seek(features, video, tracklet, 0.2, 0.18, window)
    found = seek(features, video, tracklet, window=window, guard=False, min_images=1)
    assert same_groups(found.labels, wanted)
    report = found.report
    assert (report.excluded, report.discarded) == (report.reassigned + report.discarded, int((wanted < 0).sum()))
    assert min(report.reassigned, report.discarded, report.merged, report.links) > 0
    assert report.identities == wanted.max() + 1 == sum(report.histogram.values())
    if window:  # a person who comes back later than that is a new one
        assert report.identities > seek(features, video, tracklet, guard=False, min_images=1).report.identities


def test_order_of_rows_and_storage_do_not_matter(drawn, tmp_path: Path) -> None:
    features, video, tracklet, _ = drawn
    wanted = seek(features, video, tracklet).labels
    np.save(tmp_path / "x.npy", features)
    np.testing.assert_array_equal(seek(np.load(tmp_path / "x.npy", mmap_mode="r"), video, tracklet).labels, wanted)
    order = np.random.default_rng(0).permutation(len(video))
    place = np.arange(len(video))
    shuffled = seek(features[order], video[order], tracklet[order], frame_ids=place[order]).labels
    np.testing.assert_array_equal(shuffled, wanted[order])
    unordered = seek(features[order], video[order], tracklet[order]).labels  # within a tracklet, too
    assert same_groups(unordered, wanted[order])
    names = np.array([f"video {v:05}" for v in video])
    np.testing.assert_array_equal(seek(features, names, tracklet).labels, wanted)


def test_pieces_and_tiles_do_not_matter(drawn, monkeypatch: pytest.MonkeyPatch) -> None:
    features, video, tracklet, _ = drawn
    wanted = seek(features, video, tracklet, window=0)
    for module, name, value in (
        (reading, "_PIECE", 30), (reading, "_ROWS", 7), (reading, "_COLUMNS", 5), (linking, "_ROWS", 8),
        (linking, "_COLUMNS", 11),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    found = seek(features, video, tracklet, window=0)
    np.testing.assert_array_equal(found.labels, wanted.labels)
    assert found.report.to_dict() == wanted.report.to_dict()


def test_tracklets_of_a_video_stand_in_the_order_of_their_first_frames() -> None:
    angles = np.array([0.0, 0.1, 1.5, 1.6, 0.0, 0.1])
    x = np.stack([np.cos(angles), np.sin(angles)], 1)
    columns = {"video_ids": [0] * 6, "tracklet_ids": [5, 5, 1, 1, 3, 3], "frame_ids": [0, 1, 2, 3, 9, 10]}
    assert seek(x, **columns).labels.tolist() == [0, 0, 1, 1, 0, 0]
    del columns["frame_ids"]
    assert seek(x, **columns).labels.tolist() == [1, 1, 0, 0, 1, 1]


# ---- stage 1


def test_exclusion_by_hand() -> None:
    def kept(degrees: list[float], sigma: float = 0.2) -> list[bool]:
        radians = torch.deg2rad(torch.tensor(degrees))
        return keep_consistent(torch.stack([radians.cos(), radians.sin()], 1)[None], sigma)[0].tolist()

    assert kept([10.0]) == [True]
    assert kept([0.0, 36.8]) == [True, True]  # 1 - cos = 0.1993
    assert kept([0.0, 36.9]) == [True, False]  # 0.2003; both are as far from the other: the later one goes
    assert kept([0.0, 180.0]) == [True, False]
    assert kept([90.0, 0.0, 0.0, 0.0]) == [False, True, True, True]
    assert kept([0.0, 120.0, 240.0]) == [True, False, False]
    assert kept([0.0, 180.0, 0.0, 180.0]) == [True, False, True, False]


@pytest.mark.parametrize("size", [3, 20, 600])
def test_exclusion_leaves_a_consistent_set(size: int) -> None:
    """Also for tracklets so long that not all products are kept."""
    rng = np.random.default_rng(size)
    x = rng.standard_normal((2, size, 16)) + 5 * rng.standard_normal((2, 1, 16)) * (rng.random((2, size, 1)) < 0.7)
    x /= np.linalg.norm(x, axis=2, keepdims=True)
    sigma = 0.35
    keep = keep_consistent(torch.from_numpy(x).float(), sigma).numpy()
    assert 0 < keep.sum() < keep.size
    for one, kept in zip(x, keep, strict=True):
        rest = one[kept]
        if len(rest) > 1:
            assert max(cosine(v, rest.sum(0) - v) for v in rest) < sigma + 1e-5
        if size < 100:
            assert np.flatnonzero(kept).tolist() == sorted(plain_exclusion(one, list(range(size)), sigma))


def test_excluded_images_do_not_come_back() -> None:
    """The last image goes first, because of the two before it; without them it would fit its own tracklet again."""
    radians = np.deg2rad([0] * 8 + [-60, -60, 49.5])
    x = np.stack([np.cos(radians), np.sin(radians)], 1)
    found = seek(x, [0] * 11, [0] * 11, sigma_cst=0.36)
    assert found.labels.tolist() == [0] * 8 + [-1] * 3
    assert cosine(x[10], x[0]) < 0.36


# ---- links and closure


def random_groups(count: int, dim: int = 6) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).standard_normal((count, dim)).astype(np.float32))


def collect(links) -> list[tuple[int, int]]:
    parts = list(links)
    pairs = np.stack([np.concatenate([p[i] for p in parts]) for i in (0, 1)], 1)
    return sorted(map(tuple, pairs.tolist()))


@pytest.mark.parametrize("window", [1, 40, 5000])
def test_links_equal_brute_force(window: int) -> None:
    sums = random_groups(1200)
    unit = torch.nn.functional.normalize(sums.double(), dim=1).numpy()
    close = 1 - unit @ unit.T < 0.1
    ahead = np.arange(1200)[None] - np.arange(1200)[:, None]
    wanted = list(zip(*np.nonzero(close & (ahead > 0) & (ahead <= window)), strict=True))
    stop = np.minimum(np.arange(1200) + window + 1, 1200)
    assert collect(find_links(sums, stop, 0.1, CPU)) == [(int(a), int(b)) for a, b in wanted]
    nearest = collect(find_links(sums, stop, 0.1, CPU, nearest=2))
    assert set(nearest) <= {(int(a), int(b)) for a, b in wanted}
    assert max(np.bincount([a for a, _ in nearest])) <= 2


def test_faiss_finds_the_same_links() -> None:
    sums = random_groups(700)
    exact = collect(find_links(sums, np.full(700, 700), 0.1, CPU))
    assert collect(find_links_with_faiss(sums, 0.1, lists=8, probes=8)) == exact
    some = collect(find_links_with_faiss(sums, 0.1, lists=8, probes=2))
    assert set(some) < set(exact)
    assert len(some) > len(exact) / 2


def test_closure() -> None:
    chain = np.random.default_rng(0).permutation(5000)
    closure = Closure(6000)
    for half in (slice(0, 2600), slice(2600, 4999)):
        closure.join(chain[:-1][half], chain[1:][half])
    assert closure.roots().tolist() == [0] * 5000 + list(range(5000, 6000))


def plain_guard(sums, images, links, max_radius: float, max_images: int) -> list[int]:
    """Join in the order of distances, each time computing everything anew."""
    parts = [{i} for i in range(len(sums))]
    for a, b, _ in sorted(links, key=lambda link: (link[2], link[0], link[1])):
        p, q = (next(part for part in parts if i in part) for i in (a, b))
        if p is q:
            continue
        both = p | q
        centre = sum(sums[i] for i in both)
        wide = max(cosine(sums[i], centre) for i in both)
        if wide <= max_radius and sum(images[i] for i in both) <= max_images:
            parts = [part for part in parts if part is not p and part is not q] + [both]
    return [min(next(part for part in parts if i in part)) for i in range(len(sums))]


def test_guard_equals_its_definition() -> None:
    rng = np.random.default_rng(5)
    images = rng.integers(1, 30, 120)
    unit = torch.nn.functional.normalize(random_groups(120, 4), dim=1)
    sums = unit * torch.from_numpy(images)[:, None].float()
    links = list(find_links(sums, np.full(120, 120), 0.15, CPU, nearest=64))
    flat = [link for a, b, d in links for link in zip(a.tolist(), b.tolist(), d.tolist(), strict=True)]
    roots, count, refused = close_guarded(sums, images, links, 0.12, 150)
    assert roots.tolist() == plain_guard(sums.double().numpy(), images, flat, 0.12, 150)
    assert count == len(flat)
    assert refused > 0
    assert len(np.unique(roots)) > len(np.unique(linking.close_all(120, links)[0]))


def test_one_bridge_does_not_fuse_two_persons() -> None:
    """Two people 50 degrees apart, and one tracklet between them that is close to both."""
    degrees = np.array([0, 4, 8, 29, 50, 54, 58], float)
    x = np.stack([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))], 1)
    columns = {"video_ids": np.arange(7), "tracklet_ids": np.arange(7), "sigma_drm": 0.08, "min_images": 1}
    assert seek(x, **columns, guard=False).labels.tolist() == [0] * 7
    found = seek(x, **columns, max_radius=0.06)
    assert found.labels[0] == found.labels[2] != found.labels[4] == found.labels[6]
    assert found.report.refused > 0


# ---- the whole


def test_f_score_beside_dbscan(bench: ModuleType) -> None:
    """Swapped, mixed and split tracklets, empty images, and the same people in several videos."""
    pytest.importorskip("sklearn")
    data = bench.draw(45, seed=11)
    f, precision, _ = bench.pairwise_f(seek(data.features, data.video, data.tracklet).labels, data.truth)
    assert f >= 0.95
    assert precision >= 0.98
    assert f > bench.dbscan(data, means=False, radii=np.arange(0.14, 0.27, 0.03))[0] + 0.04
    assert f > bench.dbscan(data, means=True, radii=np.arange(0.12, 0.27, 0.03))[0] + 0.1


def test_pairwise_f(bench: ModuleType) -> None:
    truth = np.array([0, 0, 0, 1, 1, 2])
    labels = np.array([0, 0, -1, 1, 1, 1])  # said: 1 + 3 pairs, true: 3 + 1, right: 1 + 1
    assert bench.pairwise_f(labels, truth) == pytest.approx((0.5, 0.5, 0.5))


def test_calibrated_distances_fit_an_extractor(bench: ModuleType) -> None:
    """A noisier extractor than the paper's: its distances discard half of the images, calibrated ones do not."""
    bench.NOISE, before = (0.6, 0.9), bench.NOISE
    try:
        clean = bench.draw(50, swapped=0, mixed=0, junk=0, seed=1)
        data = bench.draw(40, seed=2)
    finally:
        bench.NOISE = before
    found = calibrate_thresholds(clean.features, clean.truth, clean.video, tracklets=len(np.unique(data.tracklet)))
    assert found.sigma_drm < found.sigma_cst
    assert found.sigma_cst > 0.25
    assert f"{found.sigma_cst:.3f} (paper 0.2)" in str(found)

    def score(config: SeekConfig) -> float:
        return bench.pairwise_f(seek(data.features, data.video, data.tracklet, config=config).labels, data.truth)[0]

    assert score(found.apply()) > score(SeekConfig()) + 0.2


def test_calibration_equals_plain_loops() -> None:
    rng = np.random.default_rng(0)
    pid, cam = np.repeat(np.arange(40), 10), np.tile(np.repeat([0, 1], 5), 40)
    x = (rng.standard_normal((40, 8))[pid] + 0.5 * rng.standard_normal((400, 8))).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    order = rng.permutation(400)
    shuffled = np.r_[3 * x[order], x[:5]], np.r_[pid[order], [-1] * 5], np.r_[cam[order], [0] * 5]
    groups = {(p, c): x[(pid == p) & (cam == c)].astype(float) for p in range(40) for c in (0, 1)}
    rest = [cosine(v, g.sum(0) - v) for g in groups.values() for v in g]
    apart = {(a, b): cosine(groups[a].sum(0), groups[b].sum(0)) for a in groups for b in groups if a < b}
    others = sorted(d for (a, b), d in apart.items() if a[0] != b[0])
    own = [d for (a, b), d in apart.items() if a[0] == b[0]]

    found = calibrate_thresholds(*shuffled, window=0, tracklets=2)  # one pair: a share of 0.0005 may be closer
    assert (found.groups, found.pairs, found.needed) == (80, len(others), 2000)
    assert found.sigma_cst == pytest.approx(np.quantile(rest, 0.99), abs=1e-5)
    assert found.sigma_drm == pytest.approx(others[1], abs=1e-5)
    assert found.sigma_drm < 0.89 * found.sigma_cst
    assert found.linked == pytest.approx(np.mean(np.array(own) < found.sigma_drm))
    assert found.apply().max_radius == pytest.approx(found.sigma_drm * 0.25 / 0.18)
    strict = calibrate_thresholds(*shuffled)
    assert strict.needed == 2_000_000
    assert others[0] / 2 <= strict.sigma_drm < others[0]


def test_tail_beyond_what_was_seen() -> None:
    """Of normal distances, a small share is placed rightly from few: 4.89 standard deviations below the mean."""
    rng = np.random.default_rng(0)
    few = [np.sort(rng.normal(0.8, 0.1, 20_000)).astype(np.float32) for _ in range(20)]
    found = [_lower_quantile(values[:1000], 20_000, 5e-7) for values in few]
    assert np.mean(found) == pytest.approx(0.8 - 0.489, abs=0.02)
    assert np.mean([values[0] for values in few]) > 0.39
    assert all(f < values[0] for f, values in zip(found, few, strict=True))


# ---- options


def test_regroup_makes_a_tracklet_of_somebody_else() -> None:
    """The tracker goes over to somebody whom no other tracklet of the video shows."""
    x = np.repeat(np.eye(3), [6, 4, 2], axis=0) + 0.05 * np.random.default_rng(0).standard_normal((12, 3))
    video, tracklet = [0] * 12, [0] * 10 + [1] * 2
    assert seek(x, video, tracklet).labels.tolist() == [0] * 6 + [-1] * 4 + [1] * 2
    found = seek(x, video, tracklet, regroup=True)
    assert found.labels.tolist() == [0] * 6 + [1] * 4 + [2] * 2
    assert (found.report.excluded, found.report.regrouped, found.report.discarded) == (4, 4, 0)


def test_min_fraction_dissolves_a_tracklet() -> None:
    x = np.eye(4)[[0, 0, 1, 2, 3, 0, 0]]
    assert seek(x, [0] * 7, [0] * 5 + [1] * 2).labels.tolist() == [0, 0, -1, -1, -1, 0, 0]
    found = seek(x, [0] * 7, [0] * 5 + [1] * 2, min_fraction=0.5)
    assert found.labels.tolist() == [0, 0, -1, -1, -1, 0, 0]
    assert (found.report.excluded, found.report.reassigned) == (5, 2)
    alone = seek(x[:5], [0] * 5, [0] * 5, min_fraction=0.5)
    assert alone.labels.tolist() == [-1] * 5
    assert alone.report.identities == 0


def test_recheck_takes_out_what_the_closure_brought_in() -> None:
    degrees = np.array([0, 0, 0, 0, 30, 55], float)
    x = np.stack([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))], 1)
    options = {"video_ids": np.arange(6), "tracklet_ids": np.arange(6), "guard": False, "min_images": 1}
    assert seek(x, **options).labels.tolist() == [0] * 6
    found = seek(x, **options, recheck=True)
    assert found.labels.tolist() == [0, 0, 0, 0, 0, -1]
    assert [stage.name for stage in found.report.stages][-1] == "recheck"
    assert found.report.stages[-1].wide == 0 < found.report.stages[-2].wide


def test_selection() -> None:
    labels = np.array([4, 4, 2, -1, 7, 7, 7, 7, 0, 0, 0])
    select = {"min_images": 1}
    assert select_identities(labels, SeekConfig(**select)).tolist() == [0, 0, 1, -1, 2, 2, 2, 2, 3, 3, 3]
    assert select_identities(labels, SeekConfig()).tolist() == [0, 0, -1, -1, 1, 1, 1, 1, 2, 2, 2]
    capped = select_identities(labels, SeekConfig(max_per_id=2))
    assert np.bincount(capped[capped >= 0]).tolist() == [2, 2, 2]
    assert capped.tolist() == select_identities(labels, SeekConfig(max_per_id=2)).tolist()
    assert any(select_identities(labels, SeekConfig(max_per_id=2, seed=s)).tolist() != capped.tolist() for s in (1, 2))
    for seed in range(5):
        sizes = np.bincount((found := select_identities(labels, SeekConfig(target_images=6, seed=seed)))[found >= 0])
        assert 2 <= sizes.sum() <= 6
        assert set(sizes.tolist()) <= {2, 3, 4}  # whole identities


def test_report_counts_the_noise(drawn) -> None:
    features, video, tracklet, _ = drawn
    x = features.astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    found = seek(features, video, tracklet, guard=False, min_images=1, window=500)
    raw, *_, last = found.report.stages
    for stage, labels in ((raw, np.unique(tracklet, return_inverse=True)[1]), (last, found.labels)):
        groups = [x[labels == i] for i in range(labels.max() + 1)]
        centre = [g.sum(0) for g in groups]
        wide = np.mean([max(cosine(v, c) for v in g) >= 0.2 for g, c in zip(groups, centre, strict=True)])
        close = sum(cosine(centre[i], centre[j]) < 0.18 for i in range(len(centre)) for j in range(i))
        assert (stage.groups, stage.images) == (len(groups), int((labels >= 0).sum()))
        assert stage.wide == pytest.approx(wide)
        assert stage.close == 2 * close
    assert raw.wide > last.wide
    assert raw.close > last.close
    assert raw.close_anywhere > 0


def test_warns_where_the_distances_do_not_fit(caplog: pytest.LogCaptureFixture) -> None:
    x = np.random.default_rng(0).standard_normal((40, 8))
    seek(x, [0] * 40, np.arange(40) // 10, sigma_cst=0.05)
    assert "of the images fit neither" in caplog.text
    assert "--calibrate" in caplog.text


# ---- bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": np.ones((4, 2, 2))}, r"shape \(4, 2, 2\); expected \(N, D\)"),
        ({"features": np.empty((0, 2)), "video_ids": [], "tracklet_ids": []}, "at least one image"),
        ({"video_ids": [0, 0, 0]}, r"video_ids has the shape \(3,\); expected one value per feature, \(4,\)"),
        ({"frame_ids": [1]}, "frame_ids has the shape"),
        ({"features": np.array([[1, 0], [0, 0], [1, 0], [1, 0]])}, "feature of image 1 is zero, NaN or infinite"),
        ({"features": np.array([[1, 0], [0, 1], [1, 0], [np.nan, 0]])}, "feature of image 3 is zero"),
    ],
)
def test_bad_data(change: dict, message: str) -> None:
    good = {"features": np.ones((4, 2)), "video_ids": [0] * 4, "tracklet_ids": [0] * 4}
    assert reidzoo.seek_identities(**good).tolist() == [0] * 4
    with pytest.raises(DataError, match=message):
        reidzoo.seek_identities(**{**good, **change})


def test_bad_settings() -> None:
    with pytest.raises(ConfigError, match=r"no setting 'sigma_crm'\. Did you mean 'sigma_drm'"):
        seek(np.ones((2, 2)), [0, 0], [0, 0], sigma_crm=0.1)
    with pytest.raises(ConfigError, match="sigma_cst is 3, expected between 0 and 2; window is -1, expected"):
        SeekConfig(sigma_cst=3, window=-1)
    with pytest.raises(ConfigError, match="min_fraction is 2"):
        SeekConfig(min_fraction=2)
    x = np.random.default_rng(0).standard_normal((100, 4))
    with pytest.raises(DataError, match=r"There are 1 groups of at least 4 images .* of 1 identities; expected"):
        calibrate_thresholds(x[:20], np.zeros(20), np.zeros(20))
    with pytest.raises(DataError, match=r"pids \(3,\)"):
        calibrate_thresholds(x, [0, 1, 2], np.zeros(100))
    with pytest.raises(DataError, match="zero, NaN"):
        calibrate_thresholds(0 * x, np.arange(100) // 5, np.zeros(100))
    with pytest.raises(ConfigError, match="tracklets=N"):
        calibrate_thresholds(x, np.arange(100) // 5, np.zeros(100), window=0)

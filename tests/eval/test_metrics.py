"""compute_metrics against the definition, written as slow loops, and against other people's numbers."""

from __future__ import annotations

import logging
import math
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from reidzoo.errors import ConfigError, DataError
from reidzoo.eval import _ranks, compute_metrics, search
from reidzoo.eval.metrics import average_precision


def distance(q, g, metric):
    """In float64, rounded: what is equal by calculation must not differ by rounding."""
    q, g = q.astype(float), g.astype(float)
    if metric == "euclidean":
        return round(math.dist(q, g), 12)
    norms = np.linalg.norm(q) * np.linalg.norm(g)
    return round(1 - (q @ g / norms if norms else 0.0), 12)


def plain(qf, gf, q_ids, g_ids, q_cams, g_cams, metric="cosine", ap="rectangle", max_rank=50):
    """Per-query AP, CMC and mINP, by the book."""
    aps, firsts, inps = [], [], []
    for q in range(len(qf)):
        order = sorted(range(len(gf)), key=lambda g: (distance(qf[q], gf[g], metric), g))
        hits = []
        for g in order:
            same_camera = g_cams[g] == q_cams[q] and g_cams[g] != -1
            if g_ids[g] == -1 or (g_ids[g] == q_ids[q] and same_camera):
                continue
            hits.append(g_ids[g] == q_ids[q])
        if not any(hits):
            aps.append(math.nan)
            continue
        found, total = 0, 0.0
        for place, hit in enumerate(hits):
            if hit:
                before = found / place if place else 1.0
                found += 1
                after = found / (place + 1)
                total += after if ap == "rectangle" else (before + after) / 2
                last = place
        aps.append(total / found)
        firsts.append(hits.index(True))
        inps.append(found / (last + 1))
    cmc = [np.mean([f < k for f in firsts]) if firsts else math.nan for k in range(max_rank + 1)]
    return np.array(aps), np.array(cmc), np.mean(inps) if inps else math.nan


@st.composite
def problems(draw):
    """Few distinct coordinates, so that ties and duplicates abound; few ids and cameras, so that junk does too."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    q, g, d = draw(st.integers(1, 12)), draw(st.integers(1, 90)), draw(st.integers(1, 20))
    spread, ids, cams = draw(st.integers(0, 3)), draw(st.integers(1, 6)), draw(st.integers(1, 4))
    kind = draw(st.sampled_from(["grid", "real", "nearly equal"]))
    if kind == "grid":
        qf, gf = rng.integers(-spread, spread + 1, (q, d)), rng.integers(-spread, spread + 1, (g, d))
    else:
        qf, gf = rng.standard_normal((q, d)), rng.standard_normal((g, d))
        if kind == "nearly equal":  # a collapsed network: float32 cannot tell these apart
            qf, gf = 1 + 1e-3 * qf, 1 + 1e-3 * gf
        gf = gf[rng.integers(0, g, g)]
    q_cams, g_cams = rng.integers(-1, cams, q), rng.integers(-1, cams, g)
    if draw(st.booleans()):
        q_cams[:], g_cams[:] = -1, -1
    return (
        qf.astype(np.float32), gf.astype(np.float32), rng.integers(0, ids, q), rng.integers(-1, ids, g), q_cams, g_cams
    )  # fmt: skip


@settings(max_examples=150, deadline=None, derandomize=True)
@given(problems(), st.sampled_from(["cosine", "euclidean"]), st.sampled_from(["rectangle", "trapezoid"]))
def test_equals_the_definition(problem, metric, ap):
    aps, cmc, inp = plain(*problem, metric, ap)
    if np.isnan(aps).all():
        with pytest.raises(DataError):
            compute_metrics(*problem, metric=metric, ap=ap)
        return
    result = compute_metrics(*problem, metric=metric, ap=ap)
    np.testing.assert_allclose(result.per_query_ap, aps, atol=1e-6)
    np.testing.assert_allclose(result.cmc, cmc, atol=1e-6)
    assert result.mAP == pytest.approx(np.nanmean(aps), abs=1e-6)
    assert result.mINP == pytest.approx(inp, abs=1e-6)
    assert result.num_queries == len(aps)
    assert result.num_valid == np.isfinite(aps).sum()


def features(seed=0, q=40, g=300, d=32, ids=12, noise=1.5):
    rng = np.random.default_rng(seed)
    q_ids, g_ids = rng.integers(1, ids + 1, q), rng.integers(1, ids + 1, g)
    centres = rng.standard_normal((ids + 1, d))
    qf, gf = (centres[i] + noise * rng.standard_normal((len(i), d)) for i in (q_ids, g_ids))
    return qf.astype(np.float32), gf.astype(np.float32), q_ids, g_ids, rng.integers(0, 4, q), rng.integers(0, 4, g)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_tile_sizes_change_nothing(monkeypatch, metric):
    """The gallery in many pieces, the queries in many blocks: the paths that large data takes."""
    problem = features(q=90, g=2500, d=8)
    problem[3][::7] = -1
    whole = compute_metrics(*problem, metric=metric)
    monkeypatch.setattr(_ranks, "_PIECE_BYTES", 1)
    monkeypatch.setattr(_ranks, "_TILE_BYTES", 1)
    monkeypatch.setattr(_ranks, "_COUNTED", 16)
    pieces = compute_metrics(*problem, metric=metric)
    np.testing.assert_array_equal(whole.per_query_ap, pieces.per_query_ap)
    np.testing.assert_array_equal(whole.cmc, pieces.cmc)
    np.testing.assert_allclose(whole.per_query_ap, plain(*problem, metric)[0], atol=1e-6)


@pytest.mark.parametrize("top", [10, 400])  # few values reach the lowest interval, or most of them do
@pytest.mark.parametrize("rows", [1, 5])
def test_counting_above_and_within(rows, top):
    """Values on a coarse grid, so that many are equal to an interval's ends: those are within."""
    rng = np.random.default_rng(top + rows)
    values = (rng.integers(-500, 500, (rows, 2000)) / 512).astype(np.float32)
    values[:, ::50] = -np.inf
    edges = np.cumsum([0, *rng.integers(1, 6, rows)])
    low, of = np.empty(edges[-1], np.float32), np.repeat(np.arange(rows), np.diff(edges))
    for start, stop in pairwise(edges):
        low[start:stop] = np.sort(rng.integers(500 - 2 * top, 500, stop - start) / 512)[::-1]
    high = low + np.float32(2 / 512) * (rows > 1)  # of given distances, both ends are the same
    above, within, row = _ranks.count(values, low, high, edges)
    np.testing.assert_array_equal(row, of)
    np.testing.assert_array_equal(above, [(values[r] > h).sum() for r, h in zip(of, high, strict=True)])
    inside = [((values[r] >= a) & (values[r] <= b)).sum() for r, a, b in zip(of, low, high, strict=True)]
    np.testing.assert_array_equal(within, inside)
    assert sum(inside) > 0


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_threads_change_nothing(metric):
    problem = features(q=400, g=900)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(compute_metrics(*problem, metric=metric))
            assert torch.get_num_threads() == threads
        with ThreadPoolExecutor(1) as fresh:
            assert fresh.submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_num_threads(before)
    one, three = results
    np.testing.assert_array_equal(one.per_query_ap, three.per_query_ap)
    assert one.threshold() == three.threshold()


def test_an_imprecise_matrix_product_changes_nothing(monkeypatch):
    """As with TF32 or bfloat16 passes: the errors are noticed and what is doubtful is computed again."""
    problem = features()
    exact = compute_metrics(*problem)
    mm = torch.mm

    def rough(a, b, out):
        return mm(a.bfloat16().float(), b.bfloat16().float(), out=out)

    monkeypatch.setattr(_ranks.torch, "mm", rough)
    np.testing.assert_array_equal(compute_metrics(*problem).per_query_ap, exact.per_query_ap)


def test_many_true_matches():
    problem = features(q=5, g=1200, ids=2)
    np.testing.assert_allclose(compute_metrics(*problem).per_query_ap, plain(*problem)[0], atol=1e-6)


def test_constant_features_rank_by_gallery_index():
    gallery = np.ones((400, 64), np.float32) / 3
    ids = np.full(400, 2)
    ids[[10, 399]] = 1
    result = compute_metrics(gallery[:1], gallery, [1], ids)
    assert result.per_query_ap[0] == pytest.approx((1 / 11 + 2 / 400) / 2)


WORKED = [  # match flags of a ranking, AP by rectangle, AP by trapezoid, INP
    ([1, 0, 1, 0, 0, 1, 0], 0.722222, 0.677778, 0.5),
    ([0, 1], 0.5, 0.25, 0.5),
    ([0, 1, 0, 1], 0.5, 0.333333, 0.5),
    ([1, 0, 1, 1], 0.805556, 0.763889, 0.75),
    ([0, 0, 0, 1], 0.25, 0.125, 0.25),
    ([1, 1, 1], 1.0, 1.0, 1.0),
]


@pytest.mark.parametrize(("flags", "rectangle", "trapezoid", "inp"), WORKED)
def test_worked_examples(flags, rectangle, trapezoid, inp):
    gallery = np.array([[1.0 + i] for i in range(len(flags))])
    ids = np.where(flags, 1, 2)
    for ap, expected in (("rectangle", rectangle), ("trapezoid", trapezoid)):
        result = compute_metrics([[0.0]], gallery, [1], ids, metric="euclidean", ap=ap)
        assert result.mAP == pytest.approx(expected, abs=1e-6)
        assert result.convention == ap
        assert average_precision(np.flatnonzero(flags), ap) == pytest.approx(expected, abs=1e-6)
    assert result.mINP == pytest.approx(inp, abs=1e-6)
    assert result.cmc[1] == flags[0]


def test_rectangle_is_scikit_learns_average_precision():
    qf, gf, q_ids, g_ids, _, _ = features()
    result = compute_metrics(qf, gf, q_ids, g_ids)
    q, g = (x.astype(float) / np.linalg.norm(x.astype(float), axis=1, keepdims=True) for x in (qf, gf))
    expected = [average_precision_score(g_ids == i, s) for i, s in zip(q_ids, q @ g.T, strict=True)]
    np.testing.assert_allclose(result.per_query_ap, expected, atol=1e-9)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_agrees_with_a_full_search(metric):
    """Place of the first true match from a faiss ranking of the whole gallery."""
    qf, gf, q_ids, g_ids, _, _ = features(seed=3)
    _, order = search(qf, gf, len(gf), metric=metric)
    first = (g_ids[order] == q_ids[:, None]).argmax(axis=1)
    result = compute_metrics(qf, gf, q_ids, g_ids, metric=metric)
    np.testing.assert_allclose(result.cmc, [(first < k).mean() for k in range(51)])


def test_junk_is_removed_and_distractors_stay():
    gallery = np.arange(1.0, 6.0)[:, None]
    ids, cams = [7, -1, 0, 7, 0], [1, 2, 2, 2, 1]  # same camera, junk, distractor, the match, distractor
    result = compute_metrics([[0.0]], gallery, [7], ids, [1], cams, metric="euclidean")
    assert result.mAP == pytest.approx(1 / 2)
    assert compute_metrics([[0.0]], gallery, [7], ids, metric="euclidean").mAP == pytest.approx((1 + 2 / 3) / 2)


def test_unknown_cameras_remove_nothing():
    with_unknown = compute_metrics([[1.0, 0]], [[1.0, 0]], [1], [1], [-1], [-1])
    assert with_unknown.cmc[1] == 1


def test_queries_without_a_match_are_counted_apart(caplog):
    with caplog.at_level(logging.WARNING):
        result = compute_metrics([[1.0, 0], [0, 1.0]], [[1.0, 0], [0, 1.0]], [1, 5], [1, 2])
    assert (result.num_queries, result.num_valid) == (2, 1)
    assert result.mAP == 1
    assert math.isnan(result.per_query_ap[1])
    assert "1 of 2 queries" in caplog.text
    assert "1 of 2 queries" in result.table()


def test_a_small_gallery_gives_a_whole_curve():
    result = compute_metrics([[1.0]], [[1.0], [2.0]], [1], [2, 1], metric="euclidean", max_rank=7)
    np.testing.assert_array_equal(result.cmc, [0, 0, 1, 1, 1, 1, 1, 1])


def test_scaling_the_features_leaves_the_cosine_ranks():
    qf, gf, *rest = features()
    scales = np.random.default_rng(1).uniform(0.01, 100, (len(gf), 1))
    np.testing.assert_array_equal(
        compute_metrics(qf * 50, gf * scales, *rest).per_query_ap, compute_metrics(qf, gf, *rest).per_query_ap
    )


@pytest.mark.parametrize("kind", ["float16", "float64", "tensor", "bfloat16", "memmap", "list"])
def test_kinds_of_input(kind, tmp_path):
    qf, gf, *rest = features()
    qf, gf = np.round(qf, 0), np.round(gf, 0)  # the same numbers in any type
    expected = compute_metrics(qf, gf, *rest).per_query_ap
    if kind == "memmap":
        np.save(tmp_path / "g.npy", gf.astype(np.float16))
        inputs = qf, np.load(tmp_path / "g.npy", mmap_mode="r")
    else:
        convert = {
            "float16": np.float16,
            "float64": np.float64,
            "tensor": lambda x: torch.from_numpy(x).requires_grad_(),
            "bfloat16": lambda x: torch.from_numpy(x).bfloat16(),
            "list": lambda x: x.tolist(),
        }[kind]
        inputs = convert(qf), convert(gf)
    np.testing.assert_array_equal(compute_metrics(*inputs, *rest).per_query_ap, expected)


def broken(**changes):
    names = ("query_features", "gallery_features", "query_ids", "gallery_ids", "query_cams", "gallery_cams")
    given_ = dict(zip(names, features(q=4, g=9), strict=True))
    return compute_metrics(**{**given_, **changes})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite(value):
    gallery = features(q=4, g=9)[1]
    gallery[3, 2] = value
    with pytest.raises(DataError, match=r"1 of 9 gallery features contain NaN or infinity \(first rows: 3\)"):
        broken(gallery_features=gallery)


def test_large_finite_features_are_accepted():
    big = np.array([[1e18, 1e18], [1e18, -1e18]], np.float32)
    assert compute_metrics(big, big, [1, 2], [1, 2]).mAP == 1
    assert compute_metrics(big, big, [1, 2], [1, 2], metric="euclidean").mAP == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gallery_features": np.ones((9, 5))}, "32 dimensions, gallery features 5"),
        ({"gallery_features": np.ones((0, 32)), "gallery_ids": [], "gallery_cams": []}, "gallery is empty"),
        ({"query_ids": [1, 2]}, "4 query features, but query_ids"),
        ({"gallery_cams": [1, 2]}, "9 gallery features, but gallery_cams"),
        ({"query_features": np.ones(4)}, "expected \\(images, dimensions\\)"),
        ({"query_ids": list("abcd")}, "expected integers"),
        ({"query_features": np.full((4, 32), "x")}, "expected real numbers"),
        ({"query_ids": [101, 102, 103, 104]}, "No query identity appears in the gallery.*101, 102"),
        ({"query_cams": [3] * 4, "gallery_cams": [3] * 9}, "same camera .*query_cams=None"),
        ({"query_ids": [-1] * 4}, "No query identity"),
    ],
)
def test_bad_data(changes, message):
    with pytest.raises(DataError, match=message):
        broken(**changes)


def test_bad_settings():
    with pytest.raises(ConfigError, match="Did you mean 'cosine'"):
        broken(metric="cosin")
    with pytest.raises(ConfigError, match="trapezoid"):
        broken(ap="voc")
    with pytest.raises(ConfigError, match="max_rank"):
        broken(max_rank=0)

"""k-reciprocal re-ranking and query expansion against their dense definitions, written with sets and loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import reidzoo
from reidzoo.errors import ConfigError, DataError
from reidzoo.eval import Rerank, _neighbours, expand, rerank
from reidzoo.eval import rerank as rerank_function


def squared_distances(x, metric):
    x = x.astype(np.float64)
    if metric == "cosine":
        norm = np.linalg.norm(x, axis=1, keepdims=True)
        x = x / np.where(norm > 0, norm, 1)
    return np.stack([((x - row) ** 2).sum(1) for row in x])


def dense(qf, gf, k1=20, k2=6, lam=0.3, *, metric="cosine", convention="zhong"):
    """The definition, in float64: N x N arrays, sets, one row at a time."""
    squared = squared_distances(np.concatenate([qf, gf]), metric)
    n, nq = len(squared), len(qf)
    rank = np.argsort((squared / squared.max().clip(1e-300)).round(12), axis=1, kind="stable")
    if convention == "jaccard":
        original, to_encode, k = squared / 2, squared, k1
    else:
        cosine = 1 - squared / 2
        original = squared if convention == "zhong" else (1 - cosine) ** 2
        largest = original.max(1)
        original = to_encode = original / np.where(largest > 0, largest, 1)[:, None]
        k = k1 + 1

    def reciprocal(i, k):
        return {j for j in rank[i, :k] if i in rank[j, :k]}

    V = np.zeros((n, n))
    for i in range(n):
        mutual = reciprocal(i, k)
        expanded = set(mutual)
        for candidate in mutual:
            half = reciprocal(candidate, int(np.around(k1 / 2)) + 1)
            if len(half & mutual) > 2 / 3 * len(half):
                expanded |= half
        expanded = sorted(expanded)
        weight = np.exp(-to_encode[i, expanded])
        V[i, expanded] = weight / weight.sum()
    if k2 != 1:
        V = np.stack([V[rank[i, :k2]].mean(0) for i in range(n)])
    shared = np.stack([np.minimum(V[q], V[nq:]).sum(1) for q in range(nq)])
    return (1 - lam) * (1 - shared / (2 - shared)) + lam * original[:nq, nq:]


def drawn(seed=0, q=60, g=300, d=32, ids=20, noise=1.0):
    rng = np.random.default_rng(seed)
    q_ids, g_ids = rng.integers(0, ids, q), rng.integers(0, ids, g)
    centres = rng.standard_normal((ids, d)) if ids > 1 else np.zeros((1, d))
    qf, gf = (centres[i] + noise * rng.standard_normal((len(i), d)) for i in (q_ids, g_ids))
    return qf.astype(np.float32), gf.astype(np.float32), q_ids, g_ids


def mean_ap(distances, q_ids, g_ids):
    aps = []
    for row, pid in zip(distances, q_ids, strict=True):
        places = np.flatnonzero(g_ids[np.argsort(row, kind="stable")] == pid)
        if len(places):
            aps.append(np.mean((np.arange(len(places)) + 1) / (places + 1)))
    return np.mean(aps)


@pytest.mark.parametrize("data", ["clustered", "random"])
@pytest.mark.parametrize(
    ("metric", "convention"),
    [("cosine", "zhong"), ("euclidean", "zhong"), ("cosine", "fastreid"), ("cosine", "jaccard")],
)
def test_equals_the_dense_definition(data, metric, convention):
    qf, gf, q_ids, g_ids = drawn(noise=1.5) if data == "clustered" else drawn(ids=1)
    expected = dense(qf, gf, metric=metric, convention=convention)
    got = rerank(qf, gf, metric=metric, convention=convention)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert mean_ap(got, q_ids, g_ids) == pytest.approx(mean_ap(expected, q_ids, g_ids), abs=1e-6)


@pytest.mark.parametrize("convention", ["zhong", "fastreid"])
def test_metrics_are_those_of_the_dense_definition(convention):
    """With cameras and junk; junk takes no part in the neighbourhoods either."""
    qf, gf, q_ids, g_ids = drawn(noise=1.5)
    rng = np.random.default_rng(1)
    cams = rng.integers(0, 4, len(q_ids)), rng.integers(0, 4, len(g_ids))
    kept = rng.random(len(gf)) < 0.9
    distances = dense(qf, gf[kept], convention=convention)
    expected = [
        mean_ap(row[None, ~junk], [pid], g_ids[kept][~junk])
        for row, pid, cam in zip(distances, q_ids, cams[0], strict=True)
        for junk in [(g_ids[kept] == pid) & (cams[1][kept] == cam)]
    ]
    settings = Rerank(convention=convention)
    result = reidzoo.compute_metrics(qf, gf, q_ids, np.where(kept, g_ids, -1), *cams, rerank=settings)
    np.testing.assert_allclose(result.per_query_ap, expected, atol=1e-6)


@st.composite
def problems(draw):
    """Duplicates, few distinct coordinates, a handful of images, nearly equal features; k beyond the images."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    q, g, d = draw(st.integers(1, 12)), draw(st.integers(1, 60)), draw(st.integers(1, 12))
    kind = draw(st.sampled_from(["grid", "real", "nearly equal", "equal"]))
    x = rng.integers(-1, 2, (q + g, d)) if kind == "grid" else rng.standard_normal((q + g, d))
    if draw(st.booleans()):
        x = x[rng.integers(0, q + g, q + g)]
    x = {"nearly equal": 1 + 1e-3 * x, "equal": 0 * x + 2}.get(kind, x).astype(np.float32)
    return x[:q], x[q:], draw(st.integers(1, 30)), draw(st.integers(1, 9)), draw(st.sampled_from([0.0, 0.3, 1.0]))


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    problems(),
    st.sampled_from([("cosine", "zhong"), ("euclidean", "zhong"), ("cosine", "fastreid"), ("euclidean", "jaccard")]),
)
def test_equals_the_definition_on_awkward_data(problem, how):
    metric, convention = how
    expected = dense(*problem, metric=metric, convention=convention)
    np.testing.assert_allclose(rerank(*problem, metric=metric, convention=convention), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("k2", "lam", "expected"),
    [
        (1, 0.3, [0.003698, 0.013415, 0.775, 0.79075, 1]),
        (1, 0.0, [0.004212, 0.012468, 1, 1, 1]),
        (2, 0.3, [0.00075, 0.009065, 0.775, 0.79075, 1]),
    ],
)
def test_worked_numbers_on_a_line(k2, lam, expected):
    gallery = [[0.1], [0.25], [1.0], [1.1], [2.0]]
    got = rerank([[0.0]], gallery, k1=2, k2=k2, lam=lam, metric="euclidean")
    np.testing.assert_allclose(got, [expected], atol=1e-6)


def test_the_conventions_differ():
    qf, gf, *_ = drawn(noise=1.5)
    results = [rerank(qf, gf, convention=c) for c in ("zhong", "fastreid", "jaccard")]
    results.append(rerank(qf, gf, metric="euclidean"))
    for i, a in enumerate(results):
        for b in results[:i]:
            assert not np.array_equal(a.argsort(1), b.argsort(1))


def test_helps_where_identities_have_several_images():
    qf, gf, q_ids, g_ids = drawn(noise=1.5)
    plain = mean_ap(rerank(qf, gf, lam=1.0), q_ids, g_ids)
    assert mean_ap(rerank(qf, gf), q_ids, g_ids) > plain + 0.1


def test_lam_one_ranks_as_the_cosine_does():
    qf, gf, *_ = drawn()
    cosine = (qf @ gf.T) / np.linalg.norm(gf, axis=1)
    np.testing.assert_array_equal(rerank(qf, gf, lam=1.0).argsort(1), (-cosine).argsort(1))


def test_blocks_change_nothing(monkeypatch):
    """Many tiles, many blocks, groups in the tiles: the paths that large data takes."""
    qf, gf, *_ = drawn(q=90, g=1100, d=16, ids=40)
    expected = dense(qf, gf, k1=9, k2=4)
    monkeypatch.setattr(_neighbours, "_TILE", 450)
    monkeypatch.setattr(_neighbours, "_CHUNK_BYTES", 4000)
    got = rerank(qf, gf, k1=9, k2=4)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    distances = Rerank(9, 4).distances(qf, gf)
    assert distances.shape == got.shape
    np.testing.assert_allclose(distances.block(70, 85), expected[70:85], atol=1e-5)


def test_an_imprecise_product_changes_no_neighbour(monkeypatch):
    """Neighbours that float32 cannot order are compared in float64, in pieces too."""
    rng = np.random.default_rng(0)
    line = np.repeat(np.arange(40.0), 5)[:, None] + 1e-3 * rng.standard_normal((200, 1))
    monkeypatch.setattr(_neighbours, "_CHUNK_BYTES", 1 << 10)
    points = _neighbours.Points([line[:30], line[30:]], False, torch.device("cpu"))
    rank, furthest = _neighbours.nearest(points, 3, 7)
    distance = np.abs(line - line.T)
    for k in (3, 7):
        np.testing.assert_array_equal(np.sort(rank[:, :k].numpy(), 1), np.sort(distance.argsort(1)[:, :k], 1))
    np.testing.assert_allclose(furthest.sqrt() * points.scale, distance.max(1), rtol=1e-6)


def test_grouped_search_of_the_largest():
    tile = torch.from_numpy(np.random.default_rng(0).permutation(20 * 1003).reshape(20, 1003).astype(np.float32))
    for k in (1, 5, 31):
        for got, expected in zip(_neighbours._largest(tile, k), tile.topk(k), strict=True):
            assert torch.equal(got, expected)


def test_input_types_and_the_users_precision(tmp_path):
    qf, gf, *_ = drawn()
    expected = rerank(qf, gf)
    np.save(tmp_path / "gallery.npy", gf)
    mapped = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    np.testing.assert_array_equal(rerank(torch.from_numpy(qf).requires_grad_(), mapped), expected)
    np.testing.assert_allclose(rerank(qf.astype(np.float64) * 7, gf.tolist()), expected, atol=1e-5)
    half = qf.astype(np.float16), gf.astype(np.float16)
    np.testing.assert_allclose(rerank(*half), dense(*half), atol=1e-5)
    torch.set_float32_matmul_precision("medium")
    try:
        np.testing.assert_array_equal(rerank(qf, gf), expected)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_exported():
    assert reidzoo.rerank is rerank_function
    assert callable(reidzoo.eval.rerank)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read as on Linux")
def test_memory_is_not_n_by_n():
    """At a size whose N x N array is 400 MB."""

    def status(field):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024

    x = np.random.default_rng(0).standard_normal((10_000, 8)).astype(np.float32)
    rerank(x[:50], x[50:100])
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = status("VmRSS")
    Rerank(k1=10).distances(x[:500], x[500:]).block(0, 50)
    assert status("VmHWM") - before < 160


@pytest.mark.parametrize(
    ("query", "gallery", "message"),
    [
        (np.ones((3, 4)), np.ones((2, 5)), "Query features have 4 dimensions, gallery features 5"),
        (np.ones((3, 4)), np.ones((0, 4)), "gallery is empty"),
        (np.ones(4), np.ones((2, 4)), "query features have shape"),
        ([["a"]], np.ones((2, 1)), "query features are of type <U1"),
        (np.ones((3, 4)), [[1.0, 2, 3, np.nan], [1, 2, 3, 4]], "1 of 2 gallery features contain NaN .* rows: 0"),
    ],
)
def test_bad_features(query, gallery, message):
    for function in (rerank, expand):
        with pytest.raises(DataError, match=message):
            function(query, gallery)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k1": 0}, "k1 is 0"),
        ({"k2": 0}, "k2 is 0"),
        ({"lam": 1.5}, "lam is 1.5"),
        ({"metric": "l2"}, "metric='l2'"),
        ({"convention": "zhang"}, "Did you mean 'zhong'"),
        ({"convention": "fastreid", "metric": "euclidean"}, "defined on cosines"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(ConfigError, match=message):
        rerank(np.ones((2, 3)), np.ones((4, 3)), **arguments)


def expanded_by_loops(x, k, alpha, times):
    for _ in range(times):
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        new = np.zeros_like(x)
        for i in range(len(x)):
            cosine = unit @ unit[i]
            nearest = np.argsort(-cosine, kind="stable")[:k]
            new[i] = np.mean([max(cosine[j], 0) ** alpha * x[j] for j in nearest], axis=0)
        x = new
    return x


@pytest.mark.parametrize(("k", "alpha", "times"), [(5, 3.0, 1), (3, 0.5, 2), (1, 3.0, 1), (500, 1.5, 1)])
def test_expansion_equals_the_loops(k, alpha, times):
    qf, gf, *_ = drawn(g=150)
    x = np.concatenate([qf, gf]).astype(np.float64)
    expected = expanded_by_loops(x, k, alpha, times)
    q, g = expand(qf, gf, k, alpha, times=times)
    assert q.dtype == g.dtype == np.float32
    np.testing.assert_allclose(np.concatenate([q, g]), expected, atol=1e-5)


def test_expansion_helps_and_says_what_it_cannot_do():
    qf, gf, q_ids, g_ids = drawn(noise=1.5)
    before, after = (mean_ap(rerank(*pair, lam=1.0), q_ids, g_ids) for pair in ((qf, gf), expand(qf, gf)))
    assert after > before + 0.1
    with pytest.raises(ConfigError, match="k=0"):
        expand(qf, gf, k=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_gives_the_same():
    qf, gf, *_ = drawn(q=200, g=2000)
    np.testing.assert_allclose(rerank(qf, gf, device="cuda"), rerank(qf, gf, device="cpu"), atol=1e-5)

"""Rules of evaluation against plain loops: multi-query, single-shot, no camera, given distances, splits."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from reidzoo.errors import ConfigError, DataError
from reidzoo.eval import MultiQuery, Protocol, Rerank, compute_metrics, metrics_from_distances, rerank
from reidzoo.eval.splits import average_splits, splits_table


def features(seed=0, q=30, g=200, d=24, ids=9, noise=1.5):
    rng = np.random.default_rng(seed)
    q_ids, g_ids = rng.integers(1, ids + 1, q), rng.integers(-1, ids + 1, g)
    centres = rng.standard_normal((ids + 2, d))
    qf, gf = (centres[i] + noise * rng.standard_normal((len(i), d)) for i in (q_ids, g_ids))
    return qf.astype(np.float32), gf.astype(np.float32), q_ids, g_ids, rng.integers(0, 4, q), rng.integers(0, 4, g)


def distances_of(qf, gf, metric):
    qf, gf = qf.astype(float), gf.astype(float)
    if metric == "euclidean":
        return np.linalg.norm(qf[:, None] - gf[None], axis=2)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (qf, gf)]
    return 1 - unit[0] @ unit[1].T


def plain(distance, q_ids, g_ids, q_cams, g_cams, same_camera=False):
    """Per-query AP and place of the first match, from a distance matrix, by sorting."""
    aps, firsts = [], []
    for q, row in enumerate(distance):
        hits = []
        for g in np.argsort(row, kind="stable"):
            own = g_ids[g] == q_ids[q]
            if g_ids[g] == -1 or (own and q_cams[q] == g_cams[g] and not same_camera):
                continue
            hits.append(own)
        places = np.flatnonzero(hits)
        aps.append(np.mean((np.arange(len(places)) + 1) / (places + 1)) if len(places) else np.nan)
        firsts.append(places[0] if len(places) else np.inf)
    return np.array(aps), np.array(firsts)


def test_no_camera_keeps_the_images_of_the_query_camera():
    problem = features()
    result = compute_metrics(*problem, protocol="no_camera")
    np.testing.assert_allclose(result.per_query_ap, plain(distances_of(*problem[:2], "cosine"), *problem[2:], True)[0])
    assert result.protocol == "no_camera"
    assert result.mAP != compute_metrics(*problem).mAP


# Several images per query


def boxes(problem, per_pair=3, seed=5):
    """Further images of most queries' identity and camera, and some of nobody's."""
    qf, _, q_ids, _, q_cams, _ = problem
    rng = np.random.default_rng(seed)
    of = np.repeat(np.arange(2, len(qf)), per_pair)
    f = qf[of] + rng.standard_normal((len(of), qf.shape[1])) * np.arange(1, len(of) + 1)[:, None] / len(of)
    return np.r_[f, rng.standard_normal((4, qf.shape[1]))], np.r_[q_ids[of], [77] * 4], np.r_[q_cams[of], [0] * 4]


def members(problem, more):
    """Features of each query's images, by the definition."""
    _, ids, cams = more
    for q in range(len(problem[0])):
        same = (ids == problem[2][q]) & (cams == problem[4][q])
        yield more[0][same] if same.any() else problem[0][q : q + 1]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("pool", ["average", "max"])
def test_multi_query(metric, pool):
    problem = features()
    more = boxes(problem)
    rows = []
    for x in members(problem, more):
        if pool == "max":
            rows.append(distances_of(x, problem[1], metric).min(axis=0))
            continue
        unit = x / np.linalg.norm(x, axis=1, keepdims=True) if metric == "cosine" else x
        rows.append(distances_of(unit.mean(axis=0, keepdims=True), problem[1], metric)[0])
    expected, first = plain(np.array(rows), *problem[2:])
    protocol = MultiQuery(features=more[0], ids=more[1], cams=more[2], pool=pool)
    result = compute_metrics(*problem, metric=metric, protocol=protocol)
    np.testing.assert_allclose(result.per_query_ap, expected, atol=1e-9)
    assert result.cmc[1] == pytest.approx((first < 1).mean())
    assert np.nanmax(np.abs(expected - compute_metrics(*problem, metric=metric).per_query_ap)) > 0.01
    # the distances that thresholds are made of are those of the sets, too
    kept = problem[3] != -1
    genuine = np.sort(np.array(rows)[:, kept][_true_pairs(problem, kept)])
    np.testing.assert_allclose(np.sort(result.scores.genuine), genuine, atol=1e-5)


def _true_pairs(problem, kept):
    _, _, q_ids, g_ids, q_cams, g_cams = problem
    return (q_ids[:, None] == g_ids[kept]) & (q_cams[:, None] != g_cams[kept])


def test_multi_query_that_cannot_be():
    problem = features()
    with pytest.raises(DataError, match="None of the further images"):
        compute_metrics(*problem, protocol=MultiQuery(features=problem[0][:2], ids=[99, 98], cams=[0, 0]))
    with pytest.raises(DataError, match="24 dimensions, gallery features 3"):
        compute_metrics(*problem, protocol=MultiQuery(features=np.ones((2, 3)), ids=[1, 1], cams=[0, 0]))
    with pytest.raises(ConfigError, match="Did you mean 'max'"):
        MultiQuery(features=problem[0], ids=problem[2], cams=problem[4], pool="maxi")


# One gallery image per identity


@pytest.mark.parametrize("given", [False, True])
def test_single_shot_cmc_is_the_mean_over_all_draws(given):
    """Of the chosen true match and, independently, one image of each other identity: its exact expectation."""
    problem = features(q=6, g=40, ids=4, noise=2.5)
    distance = distances_of(*problem[:2], "cosine")
    protocol = Protocol(name="single", repeats=3000)
    if given:
        result = metrics_from_distances(distance, *problem[2:], protocol=protocol)
    else:
        result = compute_metrics(*problem, protocol=protocol)
    expected = np.mean(list(_expected_curves(distance, *problem[2:], 5)), axis=0)
    np.testing.assert_allclose(result.cmc[1:6], expected, atol=0.02)
    np.testing.assert_allclose(result.per_query_ap, plain(distance, *problem[2:])[0])
    assert result.cmc[5] == 1  # there are five identities, with the distractor's
    again = compute_metrics(*problem, protocol=Protocol(repeats=3, seed=1)).cmc
    np.testing.assert_array_equal(again, compute_metrics(*problem, protocol=Protocol(repeats=3, seed=1)).cmc)


def _expected_curves(distance, q_ids, g_ids, q_cams, g_cams, ranks):
    for q, row in enumerate(distance):
        own = np.flatnonzero((g_ids == q_ids[q]) & (g_cams != q_cams[q]))
        if len(own) == 0:
            continue
        curve = np.zeros(ranks)
        for true in own:
            ahead = np.array([1.0])  # probabilities of 0, 1, ... identities ahead
            for other in set(g_ids.tolist()) - {-1, q_ids[q]}:
                p = (row[g_ids == other] < row[true]).mean()
                ahead = np.convolve(ahead, [1 - p, p])
            curve += np.cumsum(np.pad(ahead, (0, ranks)))[:ranks] / len(own)
        yield curve


def test_names_of_protocols():
    with pytest.raises(ConfigError, match="Did you mean 'market'"):
        compute_metrics(*features(), protocol="marke")
    assert compute_metrics(*features(), protocol="cuhk03_classic").protocol == "cuhk03_classic"


# Given distances


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_given_distances_with_ties(dtype):
    problem = features(seed=2)
    distance = np.round(5 * distances_of(*problem[:2], "cosine")).astype(dtype)
    result = metrics_from_distances(distance, *problem[2:])
    expected, first = plain(distance, *problem[2:])
    np.testing.assert_allclose(result.per_query_ap, expected)
    np.testing.assert_allclose(result.cmc[1:4], [(first < k).mean() for k in (1, 2, 3)])


def test_distances_of_the_features_give_the_same():
    problem = features(seed=4)
    a = compute_metrics(*problem, metric="euclidean")
    b = metrics_from_distances(distances_of(*problem[:2], "euclidean"), *problem[2:])
    np.testing.assert_array_equal(a.per_query_ap, b.per_query_ap)
    assert a.mINP == b.mINP
    for far in (0.0, 0.01, 0.3, 1.0):
        np.testing.assert_allclose(a.threshold(far), b.threshold(far), rtol=1e-5)


def test_reranking_inside_equals_reranking_outside():
    problem = features(seed=6)
    kept = problem[3] != -1  # junk is nobody's neighbour
    settings = Rerank(k1=8, k2=3)
    result = compute_metrics(*problem, rerank=settings)
    outside = np.zeros((len(problem[0]), len(kept)))
    outside[:, kept] = rerank(problem[0], problem[1][kept], k1=8, k2=3)
    np.testing.assert_allclose(result.per_query_ap, plain(outside, *problem[2:])[0], atol=1e-9)
    assert result.mAP > compute_metrics(*problem).mAP
    more = boxes(problem)
    with pytest.raises(ConfigError, match="average"):
        compute_metrics(
            *problem, rerank=settings, protocol=MultiQuery(features=more[0], ids=more[1], cams=more[2], pool="max")
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d[0], "expected real numbers"),
        (lambda d: d[:, :5], "5 gallery features"),
        (lambda d: np.where(np.arange(len(d))[:, None] == 3, np.nan, d), r"NaN \(first rows: \[3\]\)"),
    ],
)
def test_bad_distances(change, message):
    problem = features()
    with pytest.raises(DataError, match=message):
        metrics_from_distances(change(distances_of(*problem[:2], "cosine")), *problem[2:])


def test_queries_that_are_the_gallery_are_noticed(caplog):
    _, gf, _, g_ids, _, g_cams = features()
    with caplog.at_level(logging.WARNING):
        assert compute_metrics(gf, gf, g_ids, g_ids).cmc[1] == 1
    assert "each query finds itself" in caplog.text
    caplog.clear()
    compute_metrics(gf, gf, g_ids, g_ids, g_cams, g_cams)
    assert "each query finds itself" not in caplog.text


# Several splits


def test_mean_and_population_deviation_of_splits():
    results = [compute_metrics(*features(seed=s)) for s in range(4)]
    average = average_splits(results)
    values = np.array([r.mAP for r in results])
    assert average.mean["mAP"] == pytest.approx(values.sum() / 4)
    assert average.std["mAP"] == pytest.approx(np.sqrt(((values - values.sum() / 4) ** 2).sum() / 4))
    assert average.mean["Rank-5"] == pytest.approx(np.mean([r.cmc[5] for r in results]))
    assert average.mean["TPR@FPR=0.01"] == pytest.approx(np.mean([1 - r.threshold(0.01).frr for r in results]))
    compat = average_splits(results, roc="fastreid").mean["TPR@FPR=0.01"]
    assert compat == pytest.approx(np.mean([r.tpr_at_fpr(0.01, "fastreid") for r in results]))
    table = splits_table({"A": average, "B": average_splits(results[:1])})
    header, _, *rows = table.splitlines()
    assert header.split()[:5] == ["Rank-1", "Rank-5", "Rank-10", "mAP", "mINP"]
    assert [r.split()[:2] for r in rows] == [["A", "mean"], ["A", "std"], ["B", "mean"], ["B", "std"], ["all", "mean"]]
    assert float(rows[4].split()[5]) == pytest.approx(50 * (average.mean["mAP"] + results[0].mAP), abs=0.01)
    with pytest.raises(ConfigError, match="not of one kind"):
        average_splits([results[0], compute_metrics(*features(), ap="trapezoid")])
    with pytest.raises(ConfigError, match="no results"):
        average_splits([])

"""Thresholds and ROC against counts over the whole distance matrix, scikit-learn, and the numbers of the spec."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_curve

from reidzoo.errors import ConfigError
from reidzoo.eval import compute_metrics
from reidzoo.eval import scores as module
from reidzoo.eval.report import EvalResult
from reidzoo.eval.scores import Scores

# Worked by hand in the specification (finetuning.md, D.5).
GENUINE, IMPOSTOR = [0.10, 0.20, 0.30, 0.60], [0.25, 0.5, 0.7, 0.8, 0.9]


def make(genuine, impostor):
    return Scores(np.array(genuine, np.float32), np.array(impostor, np.float32), len(impostor))


def test_worked_example():
    scores = make(GENUINE, IMPOSTOR)
    distance, far, frr = scores.threshold(0.2)
    assert distance == pytest.approx(0.5)
    assert (far, 1 - frr) == (pytest.approx(0.2), pytest.approx(0.75))
    assert scores.tpr_at_fpr(0.2) == pytest.approx(0.75)
    assert scores.tpr_at_fpr(0.01, "fastreid") == 0.0
    assert scores.tpr_at_fpr(0.01) == pytest.approx(0.5)  # below 0.25, the nearest impostor
    assert scores.threshold(1.0).frr == 0
    assert scores.threshold(1.0).far == 1


def upstream(genuine, impostor, fpr):
    """As fast-reid computes it: scikit-learn's curve with impostors as positives, nearest corner."""
    labels = np.r_[np.zeros(len(genuine)), np.ones(len(impostor))]
    false, true, _ = roc_curve(labels, np.r_[genuine, impostor].astype(np.float32))
    return true[np.argmin(np.abs(false - fpr))]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-4, 1e-3, 1e-2, 0.1, 0.5]))
def test_fastreid_convention_is_upstreams(seed, fpr):
    rng = np.random.default_rng(seed)
    decimals = int(rng.integers(1, 6))  # few: ties
    genuine = rng.normal(0.4, 0.2, rng.integers(1, 120)).round(decimals)
    impostor = rng.normal(0.8, 0.2, rng.integers(1, 400)).round(decimals)
    assert make(genuine, impostor).tpr_at_fpr(fpr, "fastreid") == pytest.approx(upstream(genuine, impostor, fpr))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_the_threshold_is_the_largest_that_keeps_its_promise(seed, far):
    rng = np.random.default_rng(seed)
    genuine, impostor = (rng.normal(m, 0.2, rng.integers(1, 60)).round(2).astype(np.float32) for m in (0.4, 0.8))
    found = make(genuine, impostor).threshold(far)
    assert found.far == pytest.approx(np.mean(impostor < found.distance))
    assert found.frr == pytest.approx(np.mean(genuine >= found.distance))
    assert found.far <= far + 1e-9
    larger = np.unique(np.r_[genuine, impostor])
    for t in larger[larger > found.distance]:
        assert np.mean(impostor < t) > far - 1e-9 or np.mean(genuine >= t) == found.frr


def problem(q=60, g=500, ids=11, d=16, seed=0):
    rng = np.random.default_rng(seed)
    q_ids, g_ids = rng.integers(1, ids, q), rng.integers(-1, ids, g)
    centres = rng.standard_normal((ids + 1, d))
    qf, gf = (centres[i] + 1.2 * rng.standard_normal((len(i), d)) for i in (q_ids, g_ids))
    return qf.astype(np.float32), gf.astype(np.float32), q_ids, g_ids, rng.integers(0, 3, q), rng.integers(0, 3, g)


def pairs(arrays, metric):
    """Genuine and impostor distances of the whole matrix, by the rules."""
    qf, gf, q_ids, g_ids, q_cams, g_cams = arrays
    qf, gf = qf.astype(float), gf.astype(float)
    if metric == "euclidean":
        distance = np.linalg.norm(qf[:, None] - gf[None], axis=2)
    else:
        distance = 1 - (qf / np.linalg.norm(qf, axis=1)[:, None]) @ (gf / np.linalg.norm(gf, axis=1)[:, None]).T
    same = q_ids[:, None] == g_ids
    genuine = same & (q_cams[:, None] != g_cams)
    different = ~same & (g_ids != -1) & genuine.any(axis=1)[:, None]
    return distance[genuine], distance[different]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_all_pairs_of_an_evaluation(metric):
    arrays = problem()
    result = compute_metrics(*arrays, metric=metric)
    genuine, impostor = pairs(arrays, metric)
    np.testing.assert_allclose(np.sort(result.scores.genuine), np.sort(genuine), atol=1e-5)
    np.testing.assert_allclose(np.sort(result.scores.impostor), np.sort(impostor), atol=1e-5)
    assert result.scores.impostor_pairs == len(impostor)
    for far in (1e-3, 1e-2, 0.1):
        found = result.threshold(far)
        assert found.far == pytest.approx(np.mean(impostor < found.distance - 1e-6), abs=2 / len(impostor))
        assert found.frr == pytest.approx(np.mean(genuine >= found.distance - 1e-6), abs=2 / len(genuine))
        assert far - 1.01 / len(impostor) <= found.far <= far
        assert result.tpr_at_fpr(far, "fastreid") == pytest.approx(upstream(genuine, impostor, far), abs=0.005)
    far, tar, _ = roc_curve(np.r_[np.ones(len(genuine)), np.zeros(len(impostor))], -np.r_[genuine, impostor])[:3]
    area = np.trapezoid(tar, far) if hasattr(np, "trapezoid") else np.trapz(tar, far)
    ours = result.roc
    assert (np.diff(ours.far) >= 0).all()
    assert (np.diff(ours.tar) >= 0).all()
    widths, heights = np.diff(ours.far), ours.tar[:-1]
    assert (widths * heights).sum() == pytest.approx(area, abs=0.01)


def test_large_evaluations_keep_an_even_selection(monkeypatch):
    arrays = problem(q=200, g=2000)
    whole = compute_metrics(*arrays)
    monkeypatch.setattr(module, "_KEPT", 40_000)
    some = compute_metrics(*arrays)
    assert len(whole.scores.impostor) == whole.scores.impostor_pairs == some.scores.impostor_pairs > 300_000
    assert 20_000 < len(some.scores.impostor) <= 40_000
    np.testing.assert_array_equal(whole.per_query_ap, some.per_query_ap)
    for far in (0.01, 0.1):
        cut = some.threshold(far)
        assert np.mean(whole.scores.impostor < cut.distance) == pytest.approx(far, rel=0.12)
        assert cut.frr == pytest.approx(whole.threshold(far).frr, abs=0.02)


def test_what_cannot_be_answered():
    with pytest.raises(ConfigError, match="between 0 and 1"):
        make(GENUINE, IMPOSTOR).threshold(1.5)
    with pytest.raises(ConfigError, match="not a rate"):
        make(GENUINE, IMPOSTOR).tpr_at_fpr(-1, "fastreid")
    with pytest.raises(ConfigError, match="no pairs of different persons"):
        compute_metrics([[1.0]], [[1.0]], [1], [1]).threshold()
    bare = EvalResult(0.5, np.zeros(3), 0.5, np.zeros(1), 1, 1)
    with pytest.raises(ConfigError, match="no scores"):
        bare.threshold()

"""Precision over recall, against slow loops over whole rankings."""

from __future__ import annotations

import numpy as np
import pytest

import reidzoo
from reidzoo.eval.metrics import interpolated_precision


def by_definition(flags):
    """Best precision at each recall or above it, of a ranking of right and wrong."""
    points = [(sum(flags[:k]), k) for k in range(1, len(flags) + 1)]
    return [max(hits / k for hits, k in points if 100 * hits >= level * sum(flags)) for level in range(101)]


@pytest.mark.parametrize("n", [1, 2, 3, 7, 60])
def test_one_ranking(n):
    rng = np.random.default_rng(n)
    for share in (0.05, 0.5, 1.0):
        flags = rng.random(n) < share
        flags[rng.integers(n)] = True
        np.testing.assert_allclose(interpolated_precision(np.flatnonzero(flags)), by_definition(flags), rtol=1e-12)


def test_mean_of_the_queries():
    rng = np.random.default_rng(0)
    ids, gallery_ids = rng.integers(0, 6, 20), rng.integers(-1, 5, 80)  # some queries have no match; some junk
    cams, gallery_cams = rng.integers(0, 3, 20), rng.integers(0, 3, 80)
    q, g = rng.standard_normal((20, 4)), rng.standard_normal((80, 4))
    result = reidzoo.compute_metrics(q, g, ids, gallery_ids, cams, gallery_cams, metric="euclidean")
    expected = []
    for i in range(20):
        order = np.argsort(((g - q[i]) ** 2).sum(1))
        counts = (gallery_ids != -1) & ~((gallery_ids == ids[i]) & (gallery_cams == cams[i]))
        flags = gallery_ids[order[counts[order]]] == ids[i]
        if flags.any():
            expected.append(by_definition(flags))
    assert len(expected) < 20
    np.testing.assert_allclose(result.precision, np.mean(expected, axis=0), rtol=1e-12)

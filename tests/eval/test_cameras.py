"""mAP from camera to camera, against one evaluation per pair."""

from __future__ import annotations

import math

import numpy as np
import pytest

import reidzoo
from reidzoo.data.records import Records
from reidzoo.eval.cameras import camera_pairs


def collection(seed=0, q=30, g=120, ids=8, cams=4):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((ids, 16))
    sides = []
    for n, low in ((q, 0), (g, -1)):
        pid, cam = rng.integers(low, ids, n), rng.integers(-1 if seed % 2 else 0, cams, n)
        features = (centres[pid] + 1.5 * rng.standard_normal((n, 16))).astype(np.float32)
        sides.append((features, Records.from_columns(["x"] * n, pid, cam)))
    return sides


@pytest.mark.parametrize("same_camera", [False, True])
@pytest.mark.parametrize(("seed", "ap"), [(0, "rectangle"), (1, "trapezoid")])
def test_camera_pairs_against_single_evaluations(seed, ap, same_camera):
    query, gallery = collection(seed)
    a, b, table = camera_pairs(query[0], gallery[0], query[1], gallery[1], ap=ap, same_camera=same_camera)
    assert a.tolist() == b.tolist() == [0, 1, 2, 3]
    for i, j in np.ndindex(4, 4):
        q, g = query[1].camid == i, (gallery[1].camid == j) & (gallery[1].pid != -1)
        q &= np.isin(query[1].pid, gallery[1].pid[g])
        if (i == j and not same_camera) or not q.any():
            assert math.isnan(table[i, j])
            continue
        alone = reidzoo.compute_metrics(query[0][q], gallery[0][g], query[1].pid[q], gallery[1].pid[g], ap=ap)
        assert table[i, j] == pytest.approx(alone.mAP)


def test_the_busiest_cameras():
    query, gallery = collection()
    a, b, table = camera_pairs(query[0], gallery[0], query[1], gallery[1], most=2)
    assert table.shape == (2, 2) == (len(a), len(b))
    counts = np.bincount(gallery[1].camid)
    assert set(counts[b]) == set(np.sort(counts)[-2:])

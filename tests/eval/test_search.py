from __future__ import annotations

import numpy as np
import pytest
import torch

from reidzoo.errors import ConfigError, DataError
from reidzoo.eval import search


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return rng.standard_normal((30, 16)).astype(np.float32), rng.standard_normal((500, 16)).astype(np.float32)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_equals_brute_force(arrays, metric):
    q, g = arrays
    if metric == "cosine":
        full = 1 - (q / np.linalg.norm(q, axis=1)[:, None]) @ (g / np.linalg.norm(g, axis=1)[:, None]).T
    else:
        full = np.linalg.norm(q[:, None] - g[None], axis=2)
    distances, indices = search(q, torch.from_numpy(g), 7, metric=metric)
    np.testing.assert_array_equal(indices, np.argsort(full, axis=1)[:, :7])
    np.testing.assert_allclose(distances, np.sort(full, axis=1)[:, :7], atol=1e-5)
    assert distances.dtype == np.float32
    assert indices.dtype == np.int64


def test_more_neighbours_than_images_gives_all(arrays):
    q, g = arrays
    distances, indices = search(q, g[:5], 10)
    assert distances.shape == indices.shape == (30, 5)
    np.testing.assert_array_equal(np.sort(indices, axis=1), np.tile(np.arange(5), (30, 1)))


def test_equal_distances_come_in_the_order_of_the_gallery():
    _, indices = search(np.eye(4, dtype=np.float32)[:1], np.eye(4, dtype=np.float32)[[1, 0, 2, 0, 3]], 5)
    np.testing.assert_array_equal(indices, [[1, 3, 0, 2, 4]])


def test_bad_input(arrays):
    q, g = arrays
    with pytest.raises(ConfigError, match="k is 0"):
        search(q, g, 0)
    with pytest.raises(ConfigError, match="Did you mean 'euclidean'"):
        search(q, g, metric="euclid")
    with pytest.raises(DataError, match="16 dimensions, gallery features 8"):
        search(q, g[:, :8])
    with pytest.raises(DataError, match="at least one of each"):
        search(q, g[:0])
    g[4] = np.nan
    with pytest.raises(DataError, match=r"first rows: \[4\]"):
        search(q, g)
